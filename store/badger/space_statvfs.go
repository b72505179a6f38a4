//go:build netbsd || solaris

package badger

import "golang.org/x/sys/unix"

// freeSpace returns how many bytes the current user can still write to the file
// system that path is on.
func freeSpace(path string) (uint64, error) {
	var stat unix.Statvfs_t
	if err := unix.Statvfs(path, &stat); err != nil {
		return 0, err
	}
	return blockBytes(int64(stat.Bavail), uint64(stat.Frsize)), nil
}
