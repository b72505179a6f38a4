package badger

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// syncFile makes what is in a file durable, but for its times.
func syncFile(f *os.File) error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
