package badger

import (
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/windows"
)

// freeSpace returns how many bytes the current user can still write to the
// volume that path is on.
func freeSpace(path string) (uint64, error) {
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return 0, err
	}
	var free uint64
	err = windows.GetDiskFreeSpaceEx(name, &free, nil, nil)
	return free, err
}

// allocated returns the size of a file in bytes: what of it is on the disk is not
// told.
func allocated(info fs.FileInfo) int64 { return info.Size() }

// inUse reports whether a process has the database in path open: its lock is a
// file that Windows removes with the process.
func inUse(path string) bool {
	_, err := os.Stat(filepath.Join(path, "LOCK"))
	return err == nil
}
