package instantapi

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Faults of whole file systems, which take root and mounts.

// mount mounts something for the length of the test, and returns where.
func mount(t *testing.T, args ...string) (dir string) {
	t.Helper()
	if os.Getuid() != 0 {
		missing(t, "mounting takes root")
	}
	dir = t.TempDir()
	if output, err := exec.Command("mount", append(args, dir)...).CombinedOutput(); err != nil {
		missing(t, fmt.Sprintf("mount %s: %v %s", strings.Join(args, " "), err, output))
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func TestFullDiskUnderARealServer(t *testing.T) {
	disk := mount(t, "-t", "tmpfs", "-o", "size=96m", "tmpfs")
	a := newAccountant(t, 0)
	s := newProcessSite(t, filepath.Join(disk, "store"))
	other := fixedAddr(t)
	startCaddy(t, s, s.caddyfile(a.routes())+"http://"+other+" {\nrespond bare\n}\n")
	do(t, signed(s.url("/"), taskEvent("known"))).wantForwarded(t)

	ballast := filepath.Join(disk, "ballast")
	var stat unix.Statfs_t
	if err := unix.Statfs(disk, &stat); err != nil {
		t.Fatal(err)
	}
	free := int64(stat.Bavail) * stat.Bsize
	if err := os.WriteFile(ballast, make([]byte, free-32<<20+1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond)
	for i := range 5 {
		got := do(t, signed(s.url("/"), taskEvent(fmt.Sprint("new", i))))
		got.wantJSON(t, 503, bodyNoStore)
		if got.header.Get("Retry-After") == "" {
			t.Error("there is no Retry-After")
		}
		do(t, signed(s.url("/"), taskEvent("known"))).wantJSON(t, 200, bodyDuplicate)
	}
	if got := do(t, signed("http://"+other, nil)); got.status != 200 || got.body != "bare" {
		t.Errorf("another site answers %d %s", got.status, got.body)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second)
	do(t, signed(s.url("/"), taskEvent("new0"))).wantForwarded(t)
	do(t, signed(s.url("/"), taskEvent("new0"))).wantJSON(t, 200, bodyDuplicate)
}

// A disk that is full when Caddy starts keeps no other site down.
func TestFullDiskAtTheStart(t *testing.T) {
	disk := mount(t, "-t", "tmpfs", "-o", "size=64m", "tmpfs")
	ballast := filepath.Join(disk, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 40<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	a := newAccountant(t, 0)
	s := newProcessSite(t, filepath.Join(disk, "store"))
	other := fixedAddr(t)
	startCaddy(t, s, s.caddyfile(a.routes())+"http://"+other+" {\nrespond bare\n}\n")
	if got := do(t, signed("http://"+other, nil)); got.status != 200 || got.body != "bare" {
		t.Errorf("another site answers %d %s", got.status, got.body)
	}
	do(t, signed(s.url("/"), taskEvent("1"))).wantJSON(t, 503, bodyNoStore)
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	eventually(t, "events are taken", func() bool { return do(t, signed(s.url("/"), taskEvent("1"))).status == 200 })
	do(t, signed(s.url("/"), taskEvent("1"))).wantJSON(t, 200, bodyDuplicate)
}
