//go:build unix && !aix

package badger

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// A lock is tried until no signal interrupts the attempt, and only a lock that
// is held means that the store is in use.
func TestAnInterruptedLockIsTriedAgain(t *testing.T) {
	for name, test := range map[string]struct {
		answers []error // of flock, one after the other
		want    error
	}{
		"free":                       {[]error{nil}, nil},
		"held":                       {[]error{unix.EWOULDBLOCK}, errInUse},
		"interrupted once, and free": {[]error{unix.EINTR, nil}, nil},
		"interrupted, and held":      {[]error{unix.EINTR, unix.EINTR, unix.EWOULDBLOCK}, errInUse},
		"interrupted, and not there": {[]error{unix.EINTR, unix.ENOLCK}, unix.ENOLCK},
	} {
		t.Run(name, func(t *testing.T) {
			calls := 0
			err := tryLock(t.TempDir(), func(_, how int) error {
				if how != unix.LOCK_EX|unix.LOCK_NB {
					t.Errorf("locked with %#x", how)
				}
				calls++
				return test.answers[calls-1]
			})
			if !errors.Is(err, test.want) || calls != len(test.answers) {
				t.Errorf("got %v after %d calls, want %v after %d", err, calls, test.want, len(test.answers))
			}
			if inUse := errors.Is(err, errInUse); inUse != errors.Is(test.want, errInUse) {
				t.Errorf("in use: %t, %v", inUse, err)
			}
		})
	}
}
