package instantapi

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
)

// On a full disk known events are still answered as duplicates, and other sites
// are served; new events are refused until there is room again.
func TestFullDiskUnderARealServer(t *testing.T) {
	disk := caddytest.Mount(t, "-t", "tmpfs", "-o", "size=96m", "tmpfs")
	a := newAccountant(t, 0)
	s := newProcessSite(t)
	s.Store = filepath.Join(disk, "store")
	other := caddytest.FreeAddr(t)
	s.Start(t, s.Caddyfile(a.routes())+"http://"+other+" {\nrespond bare\n}\n")
	s.Send(t, "known").WantForwarded(t)

	const minFree = 32 << 20 // as the site is configured
	ballast := filepath.Join(disk, "ballast")
	if err := os.WriteFile(ballast, make([]byte, caddytest.FreeSpace(t, disk)-minFree+1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond) // the store looks at the free space ten times a second
	for i := range 5 {
		got := s.Send(t, fmt.Sprint("new", i))
		got.WantJSON(t, 503, caddytest.NoStore)
		if got.Header.Get("Retry-After") == "" {
			t.Error("there is no Retry-After")
		}
		s.Send(t, "known").WantDuplicate(t)
	}
	caddytest.Do(t, caddytest.Signed("http://"+other, nil)).Want(t, 200, "bare")

	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second)
	s.Send(t, "new0").WantForwarded(t)
	s.Send(t, "new0").WantDuplicate(t)
}

// A disk that is full when Caddy starts keeps no other site down.
func TestFullDiskAtTheStart(t *testing.T) {
	disk := caddytest.Mount(t, "-t", "tmpfs", "-o", "size=64m", "tmpfs")
	ballast := filepath.Join(disk, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 40<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	a := newAccountant(t, 0)
	s := newProcessSite(t)
	s.Store = filepath.Join(disk, "store")
	other := caddytest.FreeAddr(t)
	s.Start(t, s.Caddyfile(a.routes())+"http://"+other+" {\nrespond bare\n}\n")
	caddytest.Do(t, caddytest.Signed("http://"+other, nil)).Want(t, 200, "bare")
	s.Send(t, "1").WantJSON(t, 503, caddytest.NoStore)
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	caddytest.Eventually(t, "events are taken", func() bool { return s.Send(t, "1").Status == 200 })
	s.Send(t, "1").WantDuplicate(t)
}
