package instantapi

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
)

// These tests are about what holds when Caddy's process ends, in whichever way.

// newProcessSite returns a site for a process of its own, which logs little.
func newProcessSite(t *testing.T) *caddytest.Site {
	t.Helper()
	s := caddytest.New(t)
	s.Level = "ERROR"
	return s
}

// Whenever the process dies, no acknowledged event is lost, and none arrives
// again. An event whose sender got no answer may arrive twice.
func TestKillNineUnderLoad(t *testing.T) {
	rounds := 3
	if caddytest.Long() {
		rounds = 300
	}
	a := newAccountant(t, time.Millisecond)
	s := newProcessSite(t)
	caddyfile := s.Caddyfile(a.routes())
	p := s.Start(t, caddyfile)
	stop := sendUntilStopped(t, a, s.URL("/"))
	for range rounds {
		time.Sleep(time.Duration(100+rand.IntN(400)) * time.Millisecond)
		p.Kill()
		p = s.Start(t, caddyfile)
		// A crash puts the last ones at risk; all events are sent again below.
		wantDuplicates(t, s.URL("/"), a.last(300))
	}
	stop()
	p.Kill()
	s.Start(t, caddyfile)
	wantDuplicates(t, s.URL("/"), a.last(0))
	a.check(t)
	t.Logf("Caddy was killed %d times under load, and started again each time", rounds+1)
}

// sendUntilStopped sends events from several senders at once, each event until it
// is acknowledged. The senders end with the test, or when stop is called.
func sendUntilStopped(t *testing.T, a *accountant, url string) (stop func()) {
	stopping := make(chan struct{})
	client := patientSender(t)
	var senders sync.WaitGroup
	for i := range 12 {
		senders.Go(func() {
			for n := 0; ; n++ {
				body := caddytest.Event(fmt.Sprintf("%d-%d", i, n))
				for acknowledged := false; !acknowledged; {
					select {
					case <-stopping:
						return
					default:
					}
					got, err := caddytest.DoWith(client, caddytest.Signed(url, body))
					acknowledged = err == nil && got.Status/100 == 2
					if err == nil && !acknowledged && got.Status != http.StatusServiceUnavailable {
						t.Errorf("got %d %s", got.Status, got.Body)
					}
					if !acknowledged {
						time.Sleep(10 * time.Millisecond)
					}
				}
				a.acknowledge(body)
			}
		})
	}
	stop = sync.OnceFunc(func() {
		close(stopping)
		senders.Wait()
	})
	t.Cleanup(stop)
	return stop
}

// A request that has reached the backend gets its answer, and is remembered.
func TestShutdownFinishesRequests(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no SIGTERM") // also where all tests must run
	}
	a := newAccountant(t, 200*time.Millisecond)
	s := newProcessSite(t)
	caddyfile := s.Caddyfile(a.routes())
	p := s.Start(t, caddyfile)
	var senders sync.WaitGroup
	for i := range 32 {
		senders.Go(func() {
			time.Sleep(time.Duration(i) * 7 * time.Millisecond) // so that they end at different times
			for n := 0; ; n++ {
				body := caddytest.Event(fmt.Sprintf("%d-%d", i, n))
				got, err := caddytest.DoWith(caddytest.Sender, caddytest.Signed(s.URL("/"), body))
				if err != nil {
					return // there is no server any more
				}
				got.WantForwarded(t)
				a.acknowledge(body)
			}
		})
	}
	time.Sleep(700 * time.Millisecond)
	p.Signal(t, syscall.SIGTERM)
	senders.Wait()
	if err := p.Wait(t); err != nil {
		t.Errorf("Caddy ended with %v, want status 0", err)
	}
	for _, body := range a.unacknowledged() {
		t.Errorf("%s was delivered, but its sender got no answer", body)
	}
	s.Start(t, caddyfile)
	wantDuplicates(t, s.URL("/"), a.last(0))
	a.check(t)
}
