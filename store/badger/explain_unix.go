//go:build unix

package badger

import "syscall"

// The codes that this system has for the failures that [explain] knows.
var (
	permissionCodes   = []syscall.Errno{syscall.EACCES, syscall.EPERM}
	readOnlyCodes     = []syscall.Errno{syscall.EROFS}
	noSpaceCodes      = []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT}
	tooManyFilesCodes = []syscall.Errno{syscall.EMFILE, syscall.ENFILE}
	noMemoryCodes     = []syscall.Errno{syscall.ENOMEM}
	diskCodes         = []syscall.Errno{syscall.EIO, syscall.ENXIO, syscall.ENODEV, syscall.ESTALE}
)
