package badger

import (
	"errors"
	"syscall"

	"golang.org/x/sys/windows"
)

// The codes that this system has for the failures that [explain] knows.
var (
	permissionCodes   = []syscall.Errno{windows.ERROR_ACCESS_DENIED}
	readOnlyCodes     = []syscall.Errno{windows.ERROR_WRITE_PROTECT}
	noSpaceCodes      = []syscall.Errno{windows.ERROR_DISK_FULL, windows.ERROR_HANDLE_DISK_FULL, windows.ERROR_DISK_QUOTA_EXCEEDED}
	tooManyFilesCodes = []syscall.Errno{windows.ERROR_TOO_MANY_OPEN_FILES}
	noMemoryCodes     = []syscall.Errno{windows.ERROR_NOT_ENOUGH_MEMORY, windows.ERROR_OUTOFMEMORY, windows.ERROR_COMMITMENT_LIMIT}
	diskCodes         = []syscall.Errno{windows.ERROR_IO_DEVICE, windows.ERROR_CRC, windows.ERROR_SECTOR_NOT_FOUND, windows.ERROR_NOT_READY}
)

// isSystemError reports whether the operating system failed.
func isSystemError(err error) bool {
	_, ok := errors.AsType[syscall.Errno](err)
	return ok
}
