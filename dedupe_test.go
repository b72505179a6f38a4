package instantapi

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
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

	"github.com/go-json-experiment/json/jsontext"
	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
	"github.com/instantapi/caddy-instantapi-verify/store"
)

func TestIdentityIsUnambiguous(t *testing.T) {
	seen := map[store.Identity]string{}
	for name, id := range map[string]store.Identity{
		"a|b|c":         fieldsIdentity(t, "a", `"b"`, `"c"`),
		"ab|c":          fieldsIdentity(t, "ab", `"c"`),
		"a|bc":          fieldsIdentity(t, "a", `"bc"`),
		"a|b quote c":   fieldsIdentity(t, "a", `"b\"c"`),
		"|a|b|c":        fieldsIdentity(t, "", `"a"`, `"b"`, `"c"`),
		"a number":      fieldsIdentity(t, "a", `1`),
		"its text":      fieldsIdentity(t, "a", `"1"`),
		"body":          identifyBody("a", []byte("bc")),
		"body, scope":   identifyBody("ab", []byte("c")),
		"a field of it": fieldsIdentity(t, "a", `"`+hex.EncodeToString(sha256.New().Sum([]byte("bc")))+`"`),
	} {
		if other, taken := seen[id]; taken {
			t.Errorf("%s and %s have the same identity", name, other)
		}
		seen[id] = name
	}
	// Across versions an event must keep its identity, or it is new again.
	if id := fieldsIdentity(t, "example.com/hook", `"task.completed"`, `"task_1"`).String(); id != "76c113b432e8750ded870abd663ab752" {
		t.Errorf("identity became %s", id)
	}
}

// fieldsIdentity is the identity of an event with these values.
func fieldsIdentity(t *testing.T, scope string, values ...string) store.Identity {
	t.Helper()
	var raw []jsontext.Value
	for _, value := range values {
		raw = append(raw, jsontext.Value(value))
	}
	id, ok := identifyFields(scope, raw...)
	if !ok {
		t.Fatalf("%q identify no event", values)
	}
	return id
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
