package badger

import "golang.org/x/sys/unix"

// freeSpace returns how many bytes the current user can still write to the file
// system that path is on.
func freeSpace(path string) (uint64, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(path, &stat); err != nil {
		return 0, err
	}
	// Blocks are counted in fragments, as in statvfs(3). Bsize is the size for
	// reads and writes, which is often larger on network file systems.
	size := uint64(stat.Frsize)
	if size == 0 { // file systems without fragments
		size = uint64(stat.Bsize)
	}
	return blockBytes(int64(stat.Bavail), size), nil
}
