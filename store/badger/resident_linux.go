package badger

import (
	"bufio"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// residentTables returns how many of the tables in a directory, mapped by this
// process, are wholly in memory. It reads nothing from the disk.
func residentTables(dir string) (tables int, err error) {
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return 0, err
	}
	defer maps.Close()
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		// address           perms offset  dev   inode   pathname
		// 7f2c-7f2d         r--s  00000000 08:02 173521 /path/000001.sst
		fields := strings.SplitN(lines.Text(), " ", 6)
		if len(fields) < 6 {
			continue
		}
		name := strings.TrimLeft(fields[5], " ")
		if filepath.Dir(name) != dir || filepath.Ext(name) != tableSuffix {
			continue
		}
		if inMemory, err := resident(fields[0]); err != nil {
			return 0, err
		} else if inMemory {
			tables++
		}
	}
	return tables, lines.Err()
}

// resident reports whether all pages of a mapping are in memory. The addresses
// have the format of /proc/self/maps.
func resident(addresses string) (bool, error) {
	from, to, _ := strings.Cut(addresses, "-")
	start, err := strconv.ParseUint(from, 16, strconv.IntSize)
	if err != nil {
		return false, err
	}
	end, err := strconv.ParseUint(to, 16, strconv.IntSize)
	if err != nil {
		return false, err
	}
	page := uint64(os.Getpagesize())
	pages := make([]byte, (end-start+page-1)/page)
	if len(pages) == 0 {
		return true, nil
	}
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(start), uintptr(end-start), uintptr(unsafe.Pointer(&pages[0])))
	if errno != 0 {
		return false, errno // ENOMEM if it has been unmapped meanwhile
	}
	for _, state := range pages {
		if state&1 == 0 {
			return false, nil
		}
	}
	return true, nil
}
