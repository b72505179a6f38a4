package badger

import (
	"errors"
	"fmt"
	"io/fs"
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

// allocated returns the size of a file in bytes. Its FileInfo does not say how
// much of it is on the disk.
func allocated(info fs.FileInfo) int64 { return info.Size() }

// checkLock returns an error if the database in path can't be locked: errInUse
// if another process has it open. Badger's lock is a file that only one process
// can open and that Windows removes when it is closed; a power cut leaves it
// behind, closed.
func checkLock(path string) error {
	name, err := windows.UTF16PtrFromString(filepath.Join(path, lockFile))
	if err != nil {
		return err
	}
	const shared = 0 // with no other process
	lock, err := windows.CreateFile(name, windows.GENERIC_READ, shared, nil, windows.OPEN_EXISTING, windows.FILE_ATTRIBUTE_NORMAL, 0)
	switch {
	case err == nil:
		return windows.CloseHandle(lock)
	case errors.Is(err, windows.ERROR_FILE_NOT_FOUND), errors.Is(err, windows.ERROR_PATH_NOT_FOUND):
		return nil
	case errors.Is(err, windows.ERROR_SHARING_VIOLATION):
		return errInUse
	}
	return fmt.Errorf("it can't be locked: opening %s: %w; if no Caddy is using it, remove that file", lockFile, err)
}
