//go:build !linux

package badger

import "os"

// syncFile makes the content of a file durable. On macOS that empties the
// drive's cache, see fcntl(2) on F_FULLFSYNC.
func syncFile(f *os.File) error { return f.Sync() }
