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

// lastErrno is the last number in the search for an error's text. Hardly any
// system has higher ones.
const lastErrno = 160

// isSystemError reports whether the operating system failed. Badger keeps only
// the text of most errors.
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
