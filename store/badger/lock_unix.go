//go:build unix && !aix

package badger

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// checkLock returns an error if the database in path can't be locked: errInUse
// if another process has it open, because Badger locks the directory.
func checkLock(path string) error { return tryLock(path, unix.Flock) }

func tryLock(path string, flock func(fd, how int) error) error {
	dir, err := os.Open(path)
	if err != nil {
		return explain("it can't be opened", err, giveToUser)
	}
	defer dir.Close() // which releases the lock
	for {
		err = flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			return explainLock(err)
		}
	}
}

// explainLock adds the remedy to an error of flock.
func explainLock(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EWOULDBLOCK):
		return errInUse
	case errors.Is(err, unix.ENOLCK), errors.Is(err, unix.ENOSYS),
		errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.EOPNOTSUPP):
		return lockError{err, "its file system has no locks, and without a lock a second Caddy could open the store too and damage it; choose a path on a local disk, or mount this file system with locks"}
	}
	return lockError{err, "check its file system, or choose a path on a local disk"}
}
