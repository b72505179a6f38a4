package instantapi

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
)

// Whatever a crowd of senders and a moody backend do at random while the
// configuration is reloaded again and again, each event is accepted exactly
// once, and no sender is left waiting.
func TestTenThousandRequestsForAHundredEvents(t *testing.T) {
	requests, events := 10_000, 100
	if testing.Short() {
		requests = 1000
	}
	backend := newMoodyBackend(t, events)
	s := caddytest.Run(t, caddytest.Guard(backend.Backend, "in_flight_wait 2s"))
	goroutines := runtime.NumGoroutine()
	c := newCrowd(s.URL("/"))
	for i := range requests {
		c.requests <- i % events
		if i%(requests/10) == 0 {
			s.MustLoad(caddytest.Guard(backend.Backend, fmt.Sprintf("in_flight_wait 2s\nretention %dh", 1+i)))
		}
	}
	c.end(t)
	for event := range events { // also those that the backend has not accepted yet
		caddytest.Eventually(t, "event is accepted", func() bool {
			got, err := caddytest.DoWith(c.client, c.request(event))
			return err == nil && got.Status == http.StatusOK
		})
		if n := backend.accepted[event].Load(); n != 1 {
			t.Errorf("event %d was accepted %d times", event, n)
		}
	}
	c.client.CloseIdleConnections()
	backend.CloseClientConnections() // idle ones of earlier configurations
	caddytest.Eventually(t, "nobody is left waiting", func() bool { return runtime.NumGoroutine() <= goroutines+2 })
}

// moodyBackend accepts, refuses, dawdles and hangs up at random. It fails the
// test if an event comes twice at once, or after it was accepted.
type moodyBackend struct {
	*caddytest.Backend
	t                *testing.T
	atOnce, accepted []atomic.Int32 // by event
}

// eventHeader names the event of a request.
const eventHeader = "Event"

func newMoodyBackend(t *testing.T, events int) *moodyBackend {
	b := &moodyBackend{t: t, atOnce: make([]atomic.Int32, events), accepted: make([]atomic.Int32, events)}
	b.Backend = caddytest.NewBackend(t, b.answer)
	return b
}

func (b *moodyBackend) answer(w http.ResponseWriter, r *http.Request) {
	event, err := strconv.Atoi(r.Header.Get(eventHeader))
	if err != nil {
		b.t.Error(err)
		return
	}
	if b.atOnce[event].Add(1) > 1 {
		b.t.Errorf("two deliveries of event %d at once", event)
	}
	defer b.atOnce[event].Add(-1)
	if b.accepted[event].Load() > 0 {
		b.t.Errorf("event %d is forwarded after a success", event)
	}
	switch n := rand.IntN(20); {
	case n < 8:
		w.WriteHeader(http.StatusInternalServerError)
	case n < 10:
		panic(http.ErrAbortHandler)
	case n < 14:
		time.Sleep(time.Duration(rand.IntN(10)) * time.Millisecond)
		w.WriteHeader(http.StatusServiceUnavailable)
	default:
		b.accepted[event].Add(1)
		io.WriteString(w, caddytest.FromBackend)
	}
}

// crowd is a hundred senders, of which some hang up.
type crowd struct {
	url      string
	client   *http.Client
	requests chan int // of which event
	senders  sync.WaitGroup
	statuses [600]atomic.Int32
	hungUp   atomic.Int32
}

func newCrowd(url string) *crowd {
	c := &crowd{
		url:      url,
		client:   &http.Client{Transport: &http.Transport{MaxConnsPerHost: 64, MaxIdleConnsPerHost: 64}},
		requests: make(chan int),
	}
	for range 100 {
		c.senders.Go(c.send)
	}
	return c
}

func (c *crowd) request(event int) *http.Request {
	r := caddytest.Signed(c.url, caddytest.Event(strconv.Itoa(event)))
	r.Header.Set(eventHeader, strconv.Itoa(event))
	return r
}

func (c *crowd) send() {
	for event := range c.requests {
		ctx, hangUp := context.WithCancel(context.Background())
		if rand.IntN(10) == 0 {
			time.AfterFunc(time.Duration(rand.IntN(10))*time.Millisecond, hangUp)
		}
		got, err := caddytest.DoWith(c.client, c.request(event).WithContext(ctx))
		hangUp()
		if err != nil {
			c.hungUp.Add(1)
			continue
		}
		c.statuses[got.Status].Add(1)
	}
}

// end waits until all requests are answered, and logs what became of them.
func (c *crowd) end(t *testing.T) {
	close(c.requests)
	c.senders.Wait()
	for status := range c.statuses {
		if n := c.statuses[status].Load(); n > 0 {
			t.Logf("%d: %d times", status, n)
		}
	}
	t.Logf("hung up: %d", c.hungUp.Load())
}
