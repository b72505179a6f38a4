package instantapi

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
)

// These tests are about which request delivers an event when several bring it.

func TestChangedRepeatIsLogged(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s := caddytest.Run(t, caddytest.Guard(b, ""))
	body := caddytest.Event("1")
	s.Post(t, "/", body).WantForwarded(t)
	s.Post(t, "/", body).WantDuplicate(t)
	if strings.Contains(s.Logged(), "bytes differ") {
		t.Error("an unchanged repeat is called changed")
	}
	s.Post(t, "/", append(body, ' ')).WantDuplicate(t)
	if !strings.Contains(s.Logged(), "bytes differ") {
		t.Error("a changed repeat is not logged")
	}
	b.WantDeliveries(t, 1)
}

func TestRetention(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s := caddytest.Run(t, caddytest.Guard(b, "retention 1s"))
	s.Send(t, "1").WantForwarded(t)
	s.Send(t, "1").WantDuplicate(t)
	caddytest.Eventually(t, "event is forgotten", func() bool {
		return s.Send(t, "1").Body == "from the backend"
	})
}

func TestForgottenNoEarlierThanRetention(t *testing.T) {
	h := &Handler{Retention: Retention(10 * time.Second)}
	t.Cleanup(func() { now = time.Now })
	for _, nanos := range []int64{0, 1, 5e8, 999_999_999} {
		at := time.Unix(1_000_000, nanos)
		now = func() time.Time { return at }
		kept := h.newRecord(0, 200).ExpiresAt.Sub(at)
		if kept < 10*time.Second || kept >= 11*time.Second {
			t.Errorf("delivered at %d ns: remembered for %s, want 10s", nanos, kept)
		}
	}
	h.Retention = Forever
	if !h.newRecord(0, 200).ExpiresAt.IsZero() {
		t.Error("forever ends")
	}
}

// concurrently sends the same event n times at once and returns the answers.
func concurrently(t *testing.T, url string, body []byte, n int) []caddytest.Reply {
	t.Helper()
	replies := make([]caddytest.Reply, n)
	var wg sync.WaitGroup
	for i := range replies {
		wg.Go(func() {
			var err error
			if replies[i], err = caddytest.DoWith(caddytest.Sender, caddytest.Signed(url, body)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	return replies
}

func TestConcurrentRepeatsWaitForTheOutcome(t *testing.T) {
	b := caddytest.NewBackend(t, func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(200 * time.Millisecond)
		io.WriteString(w, "from the backend")
	})
	s := caddytest.Run(t, caddytest.Guard(b, ""))
	forwarded := 0
	for _, got := range concurrently(t, s.URL("/"), caddytest.Event("1"), 20) {
		if got.Body == "from the backend" {
			forwarded++
		} else {
			got.WantDuplicate(t)
		}
	}
	if forwarded != 1 {
		t.Errorf("%d answers from the backend, want 1", forwarded)
	}
	b.WantDeliveries(t, 1)
}

func TestOneWaiterTakesOverAfterAFailure(t *testing.T) {
	var attempts, atOnce atomic.Int32
	b := caddytest.NewBackend(t, func(w http.ResponseWriter, _ *http.Request) {
		if atOnce.Add(1) > 1 {
			t.Error("two deliveries of one event at once")
		}
		defer atOnce.Add(-1)
		time.Sleep(50 * time.Millisecond)
		if attempts.Add(1) <= 3 {
			w.WriteHeader(500)
			return
		}
		io.WriteString(w, "from the backend")
	})
	s := caddytest.Run(t, caddytest.Guard(b, ""))
	statuses := map[string]int{}
	for _, got := range concurrently(t, s.URL("/"), caddytest.Event("1"), 20) {
		statuses[fmt.Sprint(got.Status, " ", got.Body)]++
	}
	want := map[string]int{"500 ": 3, "200 from the backend": 1, "200 " + caddytest.Duplicate: 16}
	if fmt.Sprint(statuses) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", statuses, want)
	}
}

func TestStillBusyAfterTheWait(t *testing.T) {
	for _, wait := range []string{"0s", "100ms"} {
		release := make(chan struct{})
		b := caddytest.NewBackend(t, func(w http.ResponseWriter, _ *http.Request) { <-release })
		s := caddytest.Run(t, caddytest.Guard(b, "in_flight_wait "+wait))
		first := make(chan caddytest.Reply)
		go func() {
			got, _ := caddytest.DoWith(caddytest.Sender, caddytest.Signed(s.URL("/"), caddytest.Event("1")))
			first <- got
		}()
		caddytest.Eventually(t, "first delivery begins", func() bool { return len(b.Deliveries()) == 1 })
		got := s.Send(t, "1")
		got.WantJSON(t, 503, caddytest.Busy)
		if got.Header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
		close(release)
		if got := <-first; got.Status != 200 {
			t.Errorf("first: %d", got.Status)
		}
	}
}
