package caddytest

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Mount mounts something until the test ends, with all of mount's arguments but
// the last, and returns where. It needs root.
func Mount(t testing.TB, args ...string) (dir string) {
	t.Helper()
	if os.Getuid() != 0 {
		Missing(t, "mounting takes root")
	}
	dir = t.TempDir()
	if output, err := exec.Command("mount", append(args, dir)...).CombinedOutput(); err != nil {
		Missing(t, "mount %s: %v %s", strings.Join(args, " "), err, output)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// FreeSpace returns how many bytes may still be written to the file system of a
// path.
func FreeSpace(t testing.TB, path string) int64 {
	t.Helper()
	var stat unix.Statfs_t
	if err := unix.Statfs(path, &stat); err != nil {
		t.Fatal(err)
	}
	return int64(stat.Bavail) * int64(stat.Frsize)
}
