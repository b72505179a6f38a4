//go:build darwin || dragonfly || freebsd || aix

package badger

import "golang.org/x/sys/unix"

// freeSpace returns how many bytes the current user can still write to the file
// system that path is on. On these systems Bsize is the size of a fragment, which
// blocks are counted in.
func freeSpace(path string) (uint64, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(path, &stat); err != nil {
		return 0, err
	}
	return blockBytes(int64(stat.Bavail), uint64(stat.Bsize)), nil
}
