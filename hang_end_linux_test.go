package instantapi

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
	"github.com/instantapi/caddy-instantapi-verify/internal/faultfs"
)

// These tests are about SIGTERM and reloads while the store's disk hangs.

// take delivers events to the site, which it must not forget.
func (s *hungSite) take(t *testing.T, events int) {
	t.Helper()
	for i := range events {
		body := caddytest.Event(fmt.Sprint("known", i))
		s.Post(t, "/", body).WantForwarded(t)
		s.backend.acknowledge(body)
	}
}

// hang makes the disk hang, and waits until the store has had time to notice.
func (s *hungSite) hang(faults faultfs.Faults) {
	s.disk.Set(faults)
	time.Sleep(1500 * time.Millisecond) // it looks at its disk once a second
}

// wantAllKnown ends the fault, and checks that all acknowledged events are
// known.
func (s *hungSite) wantAllKnown(t *testing.T) {
	t.Helper()
	s.disk.Set(faultfs.Faults{})
	caddytest.Eventually(t, "new events are taken", func() bool { return s.Send(t, "later").Status == 200 })
	wantDuplicates(t, s.URL("/"), s.backend.last(0))
	s.backend.check(t)
}

// wantShutdown asks Caddy to end, and fails the test unless it does within a
// limit.
func (s *hungSite) wantShutdown(t *testing.T, limit time.Duration, ended func() bool) {
	t.Helper()
	start := time.Now()
	s.process.Signal(t, syscall.SIGTERM)
	caddytest.Eventually(t, "Caddy has shut down", ended)
	took := time.Since(start)
	if took > limit+3*time.Second { // the machine may be busy
		t.Errorf("Caddy took %v to end, want %v at most", took, limit)
	}
	t.Logf("Caddy ended after %v", took)
}

// allButWrites leaves out the operations that FUSE, unlike other file systems,
// performs after a process has ended.
var allButWrites = slices.DeleteFunc(slices.Clone(faultfs.All), func(op faultfs.Op) bool { return op == faultfs.Write })

// SIGTERM ends Caddy while the disk hangs, and nothing is forgotten.
func TestSIGTERMWhileTheDiskHangs(t *testing.T) {
	for name, test := range map[string]struct {
		faults faultfs.Faults
		limit  time.Duration
	}{
		"syncs":          {faultfs.Faults{Hang: []faultfs.Op{faultfs.Fsync}, Killable: true}, 15 * time.Second}, // 10 of them for a record
		"all but writes": {faultfs.Faults{Hang: allButWrites, Killable: true}, 5 * time.Second},
		// Whatever a process does, the kernel keeps it while one of its calls
		// hangs.
		"everything, not even by a kill": {faultfs.Faults{Hang: faultfs.All}, 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // each has a process of its own, which mostly waits
			s := newHungSite(t)
			s.take(t, 100)
			s.hang(test.faults)
			if test.limit > 5*time.Second { // then a record is under way
				go func() {
					_, _ = caddytest.DoWith(caddytest.Sender, caddytest.Signed(s.URL("/"), caddytest.Event("under way")))
				}()
				caddytest.Eventually(t, "an event is under way", func() bool { return s.backend.arrivals() == 101 })
			}
			s.wantShutdown(t, test.limit, func() bool {
				if test.faults.Killable {
					return s.process.Ended()
				}
				return strings.Contains(s.Logged(), "shutdown complete")
			})
			s.disk.Set(faultfs.Faults{})
			if err := s.process.Wait(t); err != nil {
				t.Errorf("Caddy ended with %v, want status 0", err)
			}
			s.process = s.Start(t, s.config())
			s.wantAllKnown(t)
		})
	}
}

// A reload while the disk hangs takes no longer than opening a store may, the
// other site is served throughout, and nothing is forgotten.
func TestReloadWhileTheDiskHangs(t *testing.T) {
	for name, reload := range map[string]func(*testing.T, *hungSite){
		"other options": func(t *testing.T, s *hungSite) {
			s.reload(t, 0, s.configWith("retention 1h"))
			s.within(t, 5*time.Second, caddytest.Signed(s.URL("/"), caddytest.Event("known0"))).WantDuplicate(t)
			s.within(t, 0, caddytest.Signed(s.URL("/"), caddytest.Event("new"))).WantJSON(t, 503, caddytest.NoStore)
		},
		"without the guard, and back": func(t *testing.T, s *hungSite) {
			bare := *s.Site
			bare.NoApp = true
			s.reload(t, 0, s.withOther(bare.Caddyfile("respond bare")))
			s.reload(t, 5*time.Second, s.config())
			s.within(t, 0, caddytest.Signed(s.URL("/"), caddytest.Event("known0"))).WantJSON(t, 503, caddytest.NoStore)
		},
		"another path, and back": func(t *testing.T, s *hungSite) {
			elsewhere := *s.Site
			elsewhere.Store = filepath.Join(t.TempDir(), "store")
			s.reload(t, 5*time.Second, s.withOther(elsewhere.Caddyfile(s.backend.routes())))
			s.Send(t, "elsewhere").WantForwarded(t)
			s.Send(t, "elsewhere").WantDuplicate(t)
			s.reload(t, 5*time.Second, s.config())
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // each has a process of its own, which mostly waits
			s := newHungSite(t)
			s.take(t, 100)
			s.hang(faultfs.Faults{Hang: faultfs.All, Killable: true})
			reload(t, s)
			s.wantAllElseServed(t)
			s.wantAllKnown(t)
			s.wantShutdown(t, 5*time.Second, s.process.Ended) // net/http waits so long for unused connections
			if err := s.process.Wait(t); err != nil {
				t.Errorf("Caddy ended with %v, want status 0", err)
			}
		})
	}
}

// A start while the disk hangs keeps no other site down, and can be given up.
func TestStartWhileTheDiskHangs(t *testing.T) {
	s := newHungSite(t)
	s.take(t, 100)
	s.wantShutdown(t, 5*time.Second, s.process.Ended)
	for range 2 {
		s.disk.Set(faultfs.Faults{Hang: faultfs.All, Killable: true})
		s.process = s.Start(t, s.config())
		s.get(t, 0, "http://"+s.other).Want(t, 200, "bare")
		s.within(t, 5*time.Second, caddytest.Signed(s.URL("/"), caddytest.Event("known0"))).WantJSON(t, 503, caddytest.NoStore)
		s.wantShutdown(t, 5*time.Second, s.process.Ended)
		if err := s.process.Wait(t); err != nil {
			t.Errorf("Caddy ended with %v, want status 0", err)
		}
	}
	s.process = s.Start(t, s.config())
	s.wantAllKnown(t)
}

// reload loads a config, and wants that within a limit, and the other site to be
// served meanwhile.
func (s *hungSite) reload(t *testing.T, limit time.Duration, config string) {
	t.Helper()
	start := time.Now()
	loaded := make(chan struct{})
	go func() {
		defer close(loaded)
		s.Reload(t, config)
	}()
	for served := 0; ; served++ {
		caddytest.Do(t, caddytest.Signed("http://"+s.other, nil)).Want(t, 200, "bare")
		select {
		case <-loaded:
		default:
			continue
		}
		took := time.Since(start)
		if took > limit+3*time.Second { // the machine may be busy
			t.Errorf("reloading took %v, want %v at most", took, limit)
		}
		t.Logf("reloading took %v, and the other site answered %d requests meanwhile", took, served)
		return
	}
}

// Only Caddy's main goroutine, which waits for Caddy to end, runs on the main
// thread. Linux delivers a signal to that thread first, so if the thread waited
// for the disk the signal would wait too.
func TestMainThreadIsLeftToSignals(t *testing.T) {
	var onMain atomic.Int32
	var wg sync.WaitGroup
	for range 1000 {
		wg.Go(func() {
			for range 20 {
				if unix.Gettid() == os.Getpid() {
					onMain.Add(1)
				}
				time.Sleep(time.Microsecond) // to go on wherever there is room
			}
		})
	}
	wg.Wait()
	if n := onMain.Load(); n > 0 {
		t.Errorf("other goroutines ran on the main thread %d times", n)
	}
}
