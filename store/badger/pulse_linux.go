package badger

import (
	"os"

	"golang.org/x/sys/unix"
)

// uncachedReader returns a function that reads the first page of a file from
// the disk even if it is in memory, and a function that closes the file. The
// file must not be mapped, and what was written to it must be synced.
func uncachedReader(name string) (read func() error, stop func(), err error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, nil, err
	}
	page := make([]byte, pulseSize)
	read = func() error {
		if err := unix.Fadvise(int(file.Fd()), 0, pulseSize, unix.FADV_DONTNEED); err != nil {
			return err
		}
		_, err := file.ReadAt(page, 0)
		return err
	}
	return read, func() { file.Close() }, nil
}
