//go:build unix

package instantapi

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// freeSpace returns how many bytes the current user can still write to the file
// system that path is on.
func freeSpace(path string) (uint64, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(path, &stat); err != nil {
		return 0, err
	}
	return uint64(stat.Bavail) * uint64(stat.Bsize), nil
}

// inUse reports whether a process has the database in path open: it holds a lock
// on the directory.
func inUse(path string) bool {
	dir, err := os.Open(path)
	if err != nil {
		return false
	}
	defer dir.Close() // and with it our lock
	return errors.Is(unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
}
