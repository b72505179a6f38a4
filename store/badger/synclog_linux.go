package badger

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// syncFile makes the content of a file durable, but not its timestamps.
func syncFile(f *os.File) error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
