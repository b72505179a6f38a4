//go:build unix

package badger

import (
	"io/fs"
	"syscall"
)

// allocated returns how many bytes of a file are on the disk: Badger's logs are
// sparse.
func allocated(info fs.FileInfo) int64 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return int64(stat.Blocks) * 512
	}
	return info.Size()
}
