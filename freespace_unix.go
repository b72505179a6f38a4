//go:build unix

package instantapi

import "golang.org/x/sys/unix"

// freeSpace returns how many bytes the current user can still write to the file
// system that path is on.
func freeSpace(path string) (uint64, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(path, &stat); err != nil {
		return 0, err
	}
	return uint64(stat.Bavail) * uint64(stat.Bsize), nil
}
