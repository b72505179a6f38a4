package instantapi

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
)

// accountant is a backend that counts arrivals by event, and knows which events
// were acknowledged to their senders: these must not arrive again.
type accountant struct {
	*httptest.Server
	slow time.Duration // how long it takes to answer

	mu           sync.Mutex
	arrived      map[string]int
	acknowledged map[string]bool
	order        []string // the acknowledged ones
	late         []string // arrived after that
}

func newAccountant(t *testing.T, slow time.Duration) *accountant {
	t.Helper()
	a := &accountant{slow: slow, arrived: map[string]int{}, acknowledged: map[string]bool{}}
	a.Server = httptest.NewServer(a)
	t.Cleanup(a.Close)
	return a
}

func (a *accountant) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // not a delivery
	}
	a.mu.Lock()
	a.arrived[string(body)]++
	if a.acknowledged[string(body)] {
		a.late = append(a.late, string(body))
	}
	a.mu.Unlock()
	time.Sleep(a.slow)
	io.WriteString(w, "from the backend")
}

func (a *accountant) routes() string {
	return fmt.Sprintf("instantapi_verify %s\nreverse_proxy %s", caddytest.Secret, strings.TrimPrefix(a.URL, "http://"))
}

func (a *accountant) acknowledge(body []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.acknowledged[string(body)] = true
	a.order = append(a.order, string(body))
}

// last returns the last n events that were acknowledged; 0 is all.
func (a *accountant) last(n int) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if n == 0 || n > len(a.order) {
		n = len(a.order)
	}
	return append([]string(nil), a.order[len(a.order)-n:]...)
}

// unacknowledged returns the events that arrived and were not acknowledged.
func (a *accountant) unacknowledged() (bodies []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for body := range a.arrived {
		if !a.acknowledged[body] {
			bodies = append(bodies, body)
		}
	}
	return bodies
}

// arrivals returns how many events have arrived.
func (a *accountant) arrivals() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.arrived)
}

// check compares what arrived with what was acknowledged.
func (a *accountant) check(t *testing.T) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.order) == 0 {
		t.Error("nothing was acknowledged, so this proves nothing")
	}
	lost, twice := 0, 0
	for _, body := range a.order {
		if a.arrived[body] == 0 {
			lost++
		}
	}
	for _, n := range a.arrived {
		if n > 1 {
			twice++
		}
	}
	if lost > 0 {
		t.Errorf("%d events were acknowledged and did not arrive", lost)
	}
	if len(a.late) > 0 {
		t.Errorf("%d events arrived after they were acknowledged, the first is %s", len(a.late), a.late[0])
	}
	t.Logf("%d events were acknowledged; %d arrived more than once before they were", len(a.order), twice)
}

// patientSender gives up only if no answer can come because the process is
// dead.
func patientSender(t *testing.T) *http.Client {
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

// wantDuplicates sends events again: each must be answered as a duplicate.
func wantDuplicates(t *testing.T, url string, bodies []string) {
	t.Helper()
	client := patientSender(t)
	var next, wrong atomic.Int64
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(bodies) {
					return
				}
				got, err := caddytest.DoWith(client, caddytest.Signed(url, []byte(bodies[i])))
				if (err != nil || got.Status != 200 || got.Body != caddytest.Duplicate) && wrong.Add(1) <= 3 {
					t.Errorf("%s, sent again: got %d %s %v, want a duplicate's answer", bodies[i], got.Status, got.Body, err)
				}
			}
		})
	}
	wg.Wait()
	if n := wrong.Load(); n > 3 {
		t.Errorf("%d of %d acknowledged events are not answered as duplicates", n, len(bodies))
	}
}
