//go:build unix

package badger

import (
	"errors"
	"strings"
	"syscall"
)

// The codes that this system has for the failures that [explain] knows.
var (
	permissionCodes   = []syscall.Errno{syscall.EACCES, syscall.EPERM}
	readOnlyCodes     = []syscall.Errno{syscall.EROFS}
	noSpaceCodes      = []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT}
	tooManyFilesCodes = []syscall.Errno{syscall.EMFILE, syscall.ENFILE}
	noMemoryCodes     = []syscall.Errno{syscall.ENOMEM}
	diskCodes         = []syscall.Errno{syscall.EIO, syscall.ENXIO, syscall.ENODEV, syscall.ESTALE}
)

// lastErrno is where the search for an error's words ends. Hardly a system has errors
// with higher numbers.
const lastErrno = 160

// isSystemError reports whether it was the operating system that failed. Badger keeps
// no more than the words of most errors.
func isSystemError(err error) bool {
	if _, ok := errors.AsType[syscall.Errno](err); ok {
		return true
	}
	for code := syscall.Errno(1); code <= lastErrno; code++ {
		if strings.Contains(err.Error(), ": "+code.Error()) {
			return true
		}
	}
	return false
}
