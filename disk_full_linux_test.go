package instantapi

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
)

// These tests are about a store that can't be closed for lack of space.

// fullSite is a guarded site in a process of its own, beside a plain site. It has
// taken thousands of events, and its store's disk is full.
type fullSite struct {
	*caddytest.Site
	process *caddytest.Process
	backend *accountant
	disk    string
	other   string // the plain site's address
}

func newFullSite(t *testing.T) *fullSite {
	t.Helper()
	s := &fullSite{Site: newProcessSite(t), backend: newAccountant(t, 0), other: caddytest.FreeAddr(t)}
	s.disk = caddytest.Mount(t, "-t", "tmpfs", "-o", "size=100m", "tmpfs")
	s.Store = filepath.Join(s.disk, "store")
	s.Admin = caddytest.FreeAddr(t)
	s.process = s.Start(t, s.config())
	s.take(t, 3000)
	s.fill(t, 40<<10)
	return s
}

func (s *fullSite) config() string { return s.withOther(s.Caddyfile(s.backend.routes())) }

// configWithout has no guard.
func (s *fullSite) configWithout() string {
	bare := *s.Site
	bare.NoApp = true
	return s.withOther(bare.Caddyfile("respond bare"))
}

// configAt has the store at another path.
func (s *fullSite) configAt(path string) string {
	elsewhere := *s.Site
	elsewhere.Store = path
	return s.withOther(elsewhere.Caddyfile(s.backend.routes()))
}

func (s *fullSite) withOther(config string) string {
	return config + "http://" + s.other + " {\nrespond bare\n}\n"
}

// take delivers this many events to the site.
func (s *fullSite) take(t *testing.T, events int) {
	t.Helper()
	const senders = 20
	client := patientSender(t)
	// net/http waits five seconds at its end for a connection without a request.
	defer client.CloseIdleConnections()
	var wg sync.WaitGroup
	for sender := range senders {
		wg.Go(func() {
			for n := range events / senders {
				body := caddytest.Event(fmt.Sprintf("%d-%d", sender, n))
				got, err := caddytest.DoWith(client, caddytest.Signed(s.URL("/"), body))
				if err != nil {
					t.Error(err)
					return
				}
				got.WantForwarded(t)
				s.backend.acknowledge(body)
			}
		})
	}
	wg.Wait()
}

// fill fills the disk until only this many bytes are free.
func (s *fullSite) fill(t *testing.T, free int64) {
	t.Helper()
	if err := os.WriteFile(s.ballast(), make([]byte, caddytest.FreeSpace(t, s.disk)-free), 0o600); err != nil {
		t.Fatal(err)
	}
	if left := caddytest.FreeSpace(t, s.disk); left > free {
		t.Fatalf("%d bytes are free", left)
	}
}

func (s *fullSite) ballast() string { return filepath.Join(s.disk, "ballast") }

func (s *fullSite) makeRoom(t *testing.T) {
	t.Helper()
	if err := os.Remove(s.ballast()); err != nil {
		t.Fatal(err)
	}
}

func (s *fullSite) wantOtherServed(t *testing.T) {
	t.Helper()
	caddytest.Do(t, caddytest.Signed("http://"+s.other, nil)).Want(t, 200, "bare")
}

// terminate ends Caddy by SIGTERM, and wants that within a limit, with status 0.
func (s *fullSite) terminate(t *testing.T, limit time.Duration) {
	t.Helper()
	start := time.Now()
	s.process.Signal(t, syscall.SIGTERM)
	if err := s.process.Wait(t); err != nil {
		t.Errorf("Caddy ended with %v, want status 0", err)
	}
	took := time.Since(start)
	if took > limit+3*time.Second { // the machine may be busy
		t.Errorf("Caddy took %v to end, want %v at most", took, limit)
	}
	t.Logf("Caddy ended after %v", took)
}

// wantAllKnown wants every event that was acknowledged to be a duplicate, as soon
// as the store is open.
func (s *fullSite) wantAllKnown(t *testing.T) {
	t.Helper()
	all := s.backend.last(0)
	caddytest.Eventually(t, "the store is open", func() bool {
		return s.Post(t, "/", []byte(all[0])).Status == 200
	})
	wantDuplicates(t, s.URL("/"), all)
	s.backend.check(t)
}

// A disk that is too full for the store to be closed ends no process, and nothing
// that was acknowledged is forgotten.
func TestFullDiskWhenTheStoreIsClosed(t *testing.T) {
	for name, steps := range map[string]func(*testing.T, *fullSite){
		"reload without the guard": func(t *testing.T, s *fullSite) {
			s.Reload(t, s.configWithout())
			time.Sleep(3 * time.Second) // the store tries again every two seconds
			s.wantOtherServed(t)
			s.terminate(t, 0)
			s.makeRoom(t)
			s.process = s.Start(t, s.config())
		},
		"reload without the guard, and back": func(t *testing.T, s *fullSite) {
			s.Reload(t, s.configWithout())
			s.Reload(t, s.config())
			s.wantOtherServed(t)
			s.Post(t, "/", []byte(s.backend.last(1)[0])).WantJSON(t, 503, caddytest.NoStore)
			caddytest.Eventually(t, "the log says why the store is not open", func() bool {
				return strings.Contains(s.Logged(), "it is still being closed: not enough free space: 40 KiB free")
			})
			s.makeRoom(t)
		},
		"SIGTERM": func(t *testing.T, s *fullSite) {
			s.terminate(t, 0)
			s.makeRoom(t)
			s.process = s.Start(t, s.config())
		},
		"SIGTERM and a start on the full disk": func(t *testing.T, s *fullSite) {
			s.terminate(t, 0)
			s.process = s.Start(t, s.config())
			s.wantOtherServed(t)
			s.Post(t, "/", []byte(s.backend.last(1)[0])).WantJSON(t, 503, caddytest.NoStore)
			s.makeRoom(t)
		},
		"reload to another path and back": func(t *testing.T, s *fullSite) {
			s.Reload(t, s.configAt(filepath.Join(t.TempDir(), "store")))
			s.wantOtherServed(t)
			s.Send(t, "elsewhere").WantForwarded(t)
			s.Send(t, "elsewhere").WantDuplicate(t)
			s.makeRoom(t)
			s.Reload(t, s.config())
			s.wantOtherServed(t)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // each has a process of its own, which mostly waits
			s := newFullSite(t)
			steps(t, s)
			s.wantAllKnown(t)
			s.terminate(t, 5*time.Second)
		})
	}
}
