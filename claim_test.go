package instantapi

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
)

// Who may deliver an event, when several requests bring it.

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

// The same through Caddy: parties that fail, dawdle, panic and hang up, mixed at
// random, while the config is loaded again and again.
func TestTenThousandRequestsForAHundredEvents(t *testing.T) {
	requests, events := 10_000, 100
	if testing.Short() {
		requests = 1000
	}
	var atOnce, accepted sync.Map // task → *atomic.Int32
	counter := func(m *sync.Map, task string) *atomic.Int32 {
		n, _ := m.LoadOrStore(task, new(atomic.Int32))
		return n.(*atomic.Int32)
	}
	b := caddytest.NewBackend(t, nil)
	b.Answer = func(w http.ResponseWriter, r *http.Request) {
		task := r.Header.Get("Task")
		if counter(&atOnce, task).Add(1) > 1 {
			t.Errorf("two deliveries of %s at once", task)
		}
		defer counter(&atOnce, task).Add(-1)
		if counter(&accepted, task).Load() > 0 {
			t.Errorf("%s is forwarded after a success", task)
		}
		switch n := rand.IntN(20); {
		case n < 8:
			w.WriteHeader(500)
		case n < 10:
			panic(http.ErrAbortHandler)
		case n < 14:
			time.Sleep(time.Duration(rand.IntN(10)) * time.Millisecond)
			w.WriteHeader(503)
		default:
			counter(&accepted, task).Add(1)
			io.WriteString(w, "from the backend")
		}
	}
	s := caddytest.Run(t, caddytest.Guard(b, "in_flight_wait 2s"))
	client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 64, MaxIdleConnsPerHost: 64}}
	request := func(i int) *http.Request {
		task := "task-" + strconv.Itoa(i%events)
		r := caddytest.Signed(s.URL("/"), caddytest.Event(task))
		r.Header.Set("Task", task)
		return r
	}
	goroutines := runtime.NumGoroutine()
	var wg sync.WaitGroup
	next := make(chan int)
	statuses := [600]atomic.Int32{}
	var hungUp atomic.Int32
	for range 100 {
		wg.Go(func() {
			for i := range next {
				ctx, cancel := context.WithCancel(context.Background())
				if rand.IntN(10) == 0 {
					time.AfterFunc(time.Duration(rand.IntN(10))*time.Millisecond, cancel)
				}
				got, err := caddytest.DoWith(client, request(i).WithContext(ctx))
				cancel()
				if err != nil {
					hungUp.Add(1)
					continue
				}
				statuses[got.Status].Add(1)
			}
		})
	}
	for i := range requests {
		next <- i
		if i%(requests/10) == 0 {
			s.MustLoad(caddytest.Guard(b, fmt.Sprintf("in_flight_wait 2s\nretention %dh", 1+i)))
		}
	}
	close(next)
	wg.Wait()
	for status := range statuses {
		if n := statuses[status].Load(); n > 0 {
			t.Logf("%d: %d times", status, n)
		}
	}
	t.Logf("hung up: %d", hungUp.Load())
	for i := range events { // also those that nobody has accepted yet
		caddytest.Eventually(t, "event is accepted", func() bool {
			got, err := caddytest.DoWith(client, request(i))
			return err == nil && got.Status == http.StatusOK
		})
		if task := "task-" + strconv.Itoa(i); counter(&accepted, task).Load() != 1 {
			t.Errorf("%s was accepted %d times", task, counter(&accepted, task).Load())
		}
	}
	client.CloseIdleConnections()
	b.CloseClientConnections() // idle ones of the configs that went
	caddytest.Eventually(t, "nobody is left waiting", func() bool { return runtime.NumGoroutine() <= goroutines+2 })
}
