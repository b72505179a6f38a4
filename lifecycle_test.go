package instantapi

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
	"github.com/instantapi/caddy-instantapi-verify/store/badger"
)

// These tests are about what reloads must not do to events.

func TestValidatesBesideARunningServer(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s := caddytest.Run(t, caddytest.Guard(b, ""))
	config, err := caddytest.Adapt(s.Caddyfile(caddytest.Guard(b, "retention 1h")))
	if err != nil {
		t.Fatal(err)
	}
	var c caddy.Config
	if err := json.Unmarshal(config, &c); err != nil {
		t.Fatal(err)
	}
	if err := caddy.Validate(&c); err != nil {
		t.Error(err)
	}
	s.Send(t, "1").WantForwarded(t)
	if refs, _ := openLedgers.References("badger:" + s.Store); refs != 1 {
		t.Errorf("store is held %d times, want once", refs)
	}
}

func TestASecondServerIsRefused(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s := caddytest.Run(t, caddytest.Guard(b, ""))
	second := &badger.Module{Path: s.Store, MinFreeSpace: 32 << 20}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	defer cancel()
	if err := second.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	_, err := second.Open(t.Context()) // a file lock belongs to the open file, not to the process
	caddytest.WantError(t, err, "another process has it open", "caddy reload", "another path")
	caddytest.WantError(t, err, s.Store)
	s.Send(t, "1").WantForwarded(t)
}

func TestRefusedConfigChangesNothing(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s := caddytest.Run(t, caddytest.Guard(b, ""))
	s.Send(t, "1").WantForwarded(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	good := s.Caddyfile(caddytest.Guard(b, ""))
	for name, test := range map[string]struct{ config, want string }{
		"other options":   {strings.Replace(good, "min_free_space 32MiB", "min_free_space 33MiB", 1), "has sync on, min_free_space 32 MiB, this config asks for sync on, min_free_space 33 MiB; restart Caddy"},
		"sync":            {strings.Replace(good, "min_free_space 32MiB", "min_free_space 32MiB\nsync off", 1), "asks for sync off"},
		"path is a file":  {strings.Replace(good, s.Store, file, 1), file},
		"port is taken":   {strings.Replace(good, s.Addr, b.Addr(), 1), "address already in use"},
		"another's fault": {good + "\n{$NOTHING}http://127.0.0.1:1 {\ntls nowhere.pem nowhere.key\n}", ""},
	} {
		t.Run(name, func(t *testing.T) {
			if runtime.GOOS == "windows" && test.want == "address already in use" {
				t.Skip("Windows says it in other words")
			}
			caddytest.WantError(t, s.Load(test.config), test.want)
			s.Send(t, "1").WantDuplicate(t)
			s.Send(t, name).WantForwarded(t)
			if refs, _ := openLedgers.References("badger:" + s.Store); refs != 1 {
				t.Errorf("store is held %d times, want once", refs)
			}
		})
	}
	b.WantDeliveries(t, 6)
}

// stress sends events from several senders at once, each event until it is
// acknowledged and then once more, until stop is called. Of the two answers the
// first must be the backend's and the second a duplicate's.
//
// A connection may break without an answer: when a server shuts down, net/http
// drops the request that it has just read, and Linux drops the connections that
// have not been accepted yet. Such requests must not have reached the handler:
// otherwise the next attempt's answer would be a duplicate's.
func stress(t *testing.T, url string, senders int) (stop func() (events int)) {
	t.Helper()
	stopping := make(chan struct{})
	var wg sync.WaitGroup
	var sent, broken atomic.Int64
	for i := range senders {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stopping:
					return
				default:
				}
				body := caddytest.Event(fmt.Sprintf("stress-%d-%d", i, n))
				for acknowledged := 0; acknowledged < 2; {
					got, err := caddytest.DoWith(caddytest.Sender, caddytest.Signed(url, body))
					if err != nil {
						broken.Add(1)
						continue
					}
					if got.Status != 200 {
						t.Errorf("got %d %s", got.Status, got.Body)
						return
					}
					acknowledged++
					if duplicate := got.Body == caddytest.Duplicate; duplicate != (acknowledged == 2) {
						t.Errorf("answer %d is %s", acknowledged, got.Body)
					}
				}
				sent.Add(1)
			}
		})
	}
	return func() int {
		close(stopping)
		wg.Wait()
		t.Logf("%d events were acknowledged, %d connections broke", sent.Load(), broken.Load())
		return int(sent.Load())
	}
}

// eachOnce checks that no event reached the backend twice.
func eachOnce(t *testing.T, b *caddytest.Backend, want int) {
	t.Helper()
	seen := map[string]int{}
	for _, got := range b.Deliveries() {
		seen[string(got.Body)]++
	}
	for body, n := range seen {
		if n > 1 {
			t.Errorf("%s arrived %d times", body, n)
		}
	}
	if len(seen) != want {
		t.Errorf("%d events arrived, %d were acknowledged", len(seen), want)
	}
}

func TestReloadsUnderLoad(t *testing.T) {
	reloads := 200
	if testing.Short() {
		reloads = 10
	}
	if os.Getenv("INSTANTAPI_VERIFY_TEST_LONG") == "1" {
		reloads = 2000
	}
	b := caddytest.NewBackend(t, nil)
	s := caddytest.Run(t, caddytest.Guard(b, ""))
	acknowledge(t, s, caddytest.Event("warm up"))
	before := stopAndCount(t, s, b)
	s.MustLoad(caddytest.Guard(b, ""))
	stop := stress(t, s.URL("/"), 4)
	for i := range reloads {
		options := []string{"", "retention 1h", "in_flight_wait 1s\nforward_timeout 1m", "on_store_error forward", "max_body_size 1MiB\nretention forever"}[i%5]
		if i%7 == 6 { // a refused config in between
			if err := s.Load(strings.Replace(s.Caddyfile(caddytest.Guard(b, "")), "32MiB", "34MiB", 1)); err == nil {
				t.Error("a config with other store options loads")
			}
		}
		s.MustLoad(caddytest.Guard(b, options))
		time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond) // some meet traffic, some the reload before
	}
	eachOnce(t, b, 1+stop())
	wantNothingLeft(t, s, b, before)
}

// A config without the directive releases the store, but not before the
// requests in flight have finished with it; and the next config finds it
// closed.
func TestDirectiveGoesWhileARequestIsInFlight(t *testing.T) {
	for range 5 {
		release := make(chan struct{})
		b := caddytest.NewBackend(t, func(w http.ResponseWriter, r *http.Request) {
			<-release
			w.Write([]byte("from the backend"))
		})
		s := caddytest.Run(t, caddytest.Guard(b, ""))
		answer := make(chan caddytest.Reply)
		go func() {
			got, err := caddytest.DoWith(caddytest.Sender, caddytest.Signed(s.URL("/"), caddytest.Event("1")))
			if err != nil {
				t.Error(err)
			}
			answer <- got
		}()
		caddytest.Eventually(t, "delivery begins", func() bool { return len(b.Deliveries()) == 1 })
		bare := s.Global()
		bare = bare[:strings.Index(bare, "\tinstantapi_verify")] + "}\nhttp://" + s.Addr + " {\nrespond bare\n}\n"
		if err := s.Load(bare); err != nil {
			t.Fatal(err)
		}
		if refs, _ := openLedgers.References("badger:" + s.Store); refs != 1 {
			t.Errorf("store is held %d times, want once: by the request", refs)
		}
		close(release)
		(<-answer).WantForwarded(t)
		s.MustLoad(caddytest.Guard(b, "")) // at once, while it is being closed
		s.Send(t, "1").WantDuplicate(t)
		b.WantDeliveries(t, 1)
		if err := caddy.Stop(); err != nil {
			t.Fatal(err)
		}
	}
}

// A request in flight under the old config keeps its claim under the new one.
func TestClaimOutlivesAReload(t *testing.T) {
	release := make(chan struct{})
	b := caddytest.NewBackend(t, func(w http.ResponseWriter, r *http.Request) {
		<-release
		w.Write([]byte("from the backend"))
	})
	s := caddytest.Run(t, caddytest.Guard(b, ""))
	first, second := make(chan caddytest.Reply), make(chan caddytest.Reply)
	send := func(answer chan caddytest.Reply) {
		got, err := caddytest.DoWith(caddytest.Sender, caddytest.Signed(s.URL("/"), caddytest.Event("1")))
		for range 3 { // the reload may break the connection, see stress
			if err != nil {
				got, err = caddytest.DoWith(caddytest.Sender, caddytest.Signed(s.URL("/"), caddytest.Event("1")))
			}
		}
		if err != nil {
			t.Error(err)
		}
		answer <- got
	}
	go send(first)
	caddytest.Eventually(t, "delivery begins", func() bool { return len(b.Deliveries()) == 1 })
	s.MustLoad(caddytest.Guard(b, "retention 1h"))
	go send(second)
	time.Sleep(100 * time.Millisecond)
	close(release)
	(<-first).WantForwarded(t)
	(<-second).WantDuplicate(t)
	b.WantDeliveries(t, 1)
}

// Nothing stays behind: no goroutine, no open file.
func TestReloadsLeaveNothingBehind(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s := caddytest.Run(t, caddytest.Guard(b, ""))
	acknowledge(t, s, caddytest.Event("warm up"))
	before := stopAndCount(t, s, b)
	for i := range 20 {
		s.MustLoad(caddytest.Guard(b, ""))
		if i%5 == 0 {
			acknowledge(t, s, caddytest.Event(fmt.Sprint(i)))
		}
		_ = s.Load(strings.Replace(s.Caddyfile(caddytest.Guard(b, "")), "32MiB", "34MiB", 1))
	}
	// with stops in between, so that the store is opened often too
	for i := range 5 {
		if err := caddy.Stop(); err != nil {
			t.Fatal(err)
		}
		s.MustLoad(caddytest.Guard(b, ""))
		acknowledge(t, s, caddytest.Event(fmt.Sprint(i)))
	}
	wantNothingLeft(t, s, b, before)
}

// held is what a process holds at a moment.
type held struct{ goroutines, files int }

// stopAndCount stops Caddy and returns what the process still holds.
func stopAndCount(t *testing.T, s *caddytest.Site, b *caddytest.Backend) held {
	t.Helper()
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	waitForClosedStores(t)
	b.CloseClientConnections()
	time.Sleep(200 * time.Millisecond)
	return held{runtime.NumGoroutine(), openFiles()}
}

// wantNothingLeft stops Caddy and compares what the process still holds with
// what it held before.
func wantNothingLeft(t *testing.T, s *caddytest.Site, b *caddytest.Backend, before held) {
	t.Helper()
	var after held
	for range 50 { // Badger's goroutines end a moment after its Close
		after = stopAndCount(t, s, b)
		if after.goroutines <= before.goroutines+2 && after.files <= before.files {
			return
		}
	}
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	t.Errorf("%+v became %+v\n%s", before, after, stacks)
}

// acknowledge sends an event until it is acknowledged.
func acknowledge(t *testing.T, s *caddytest.Site, body []byte) {
	t.Helper()
	caddytest.Eventually(t, "event is acknowledged", func() bool {
		got, err := caddytest.DoWith(caddytest.Sender, caddytest.Signed(s.URL("/"), body))
		return err == nil && got.Status == 200
	})
}

// openFiles returns how many files this process has open, on systems that say
// so.
func openFiles() int {
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(files)
}
