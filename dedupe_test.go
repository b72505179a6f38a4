package instantapi

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"go.uber.org/zap"
)

func TestIdentityIsUnambiguous(t *testing.T) {
	seen := map[Identity]string{}
	for name, id := range map[string]Identity{
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
func fieldsIdentity(t *testing.T, scope string, values ...string) Identity {
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

func newTestLedger(store Store) *ledger { return newLedger(store, zap.NewNop) }

// A random walk over everything that can happen to a claim, checked against a
// model: who holds an event, and whether somebody has been told that it was
// delivered.
func TestClaimsKeepTheirPromisesInAnyOrder(t *testing.T) {
	seeds := 30
	if os.Getenv("INSTANTAPI_VERIFY_TEST_LONG") != "" {
		seeds = 2000
	}
	claims := 0
	for seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { claims += randomWalk(t, uint64(seed)) })
	}
	t.Logf("%d claims in %d walks", claims, seeds)
	if claims < 50*seeds {
		t.Error("these are too few to prove anything")
	}
}

// randomWalk returns how often an event was claimed.
func randomWalk(t *testing.T, seed uint64) int {
	const actors, steps, near = 8, 150, 4
	// The actors go from event to event, so that there is always one that nobody
	// has delivered yet.
	const events = steps + near - 1
	id := func(event int) Identity { return Identity{byte(event), byte(event >> 8)} }
	store := new(faultyStore)

	var world struct {
		sync.Mutex
		ledger    *ledger
		life      int          // of the process; a crash ends it
		holder    [events]bool // somebody has the claim
		delivered [events]bool // acknowledged, and so never to be claimed again
		forgotten [events]bool // may be claimed again, whatever was acknowledged
	}
	var ledgers []*ledger // of all lives
	start := func() {
		world.ledger = newTestLedger(store)
		world.life++
		ledgers = append(ledgers, world.ledger)
	}
	start()
	// What a life that is over still does is nobody's business.
	inLife := func(life int, do func()) {
		world.Lock()
		defer world.Unlock()
		if world.life == life {
			do()
		}
	}
	var claims atomic.Int64

	act := func(rnd *rand.Rand, event int) {
		world.Lock()
		ledger, life := world.ledger, world.life
		forgets := rnd.IntN(40) == 0
		if forgets {
			world.forgotten[event], world.delivered[event] = true, false
		}
		world.Unlock()
		if forgets {
			_, _ = ledger.forget(id(event))
			return
		}
		ctx, hangUp := context.WithTimeout(context.Background(), time.Duration(rnd.IntN(3)+1)*time.Millisecond)
		defer hangUp()
		c, before, err := ledger.claim(ctx, id(event), time.Duration(rnd.IntN(3))*time.Millisecond)
		if c == nil {
			if before == nil && err == nil {
				t.Error("neither a claim, nor a record, nor an error")
			}
			return
		}
		if err != nil { // on_store_error reject
			c.release()
			return
		}
		claims.Add(1)
		wantNew := func() {
			if world.delivered[event] {
				t.Errorf("event %d is claimed after it was acknowledged", event)
			}
		}
		inLife(life, func() {
			wantNew()
			if world.holder[event] {
				t.Errorf("event %d is claimed twice at once", event)
			}
			world.holder[event] = true
		})
		if rnd.IntN(2) == 0 {
			time.Sleep(time.Duration(rnd.IntN(1000)) * time.Microsecond)
		}
		inLife(life, func() {
			wantNew()
			world.holder[event] = false
		})
		if rnd.IntN(3) > 0 {
			c.release()
			return
		}
		// With an error it is acknowledged, too: in this life the memory knows it.
		_ = c.delivered(Record{Status: 200})
		inLife(life, func() { world.delivered[event] = !world.forgotten[event] })
	}
	disturb := func(rnd *rand.Rand) {
		broken := func(Identity) error { return errors.New("broken") }
		slow := func(Identity) error {
			time.Sleep(time.Duration(rand.IntN(300)) * time.Microsecond)
			return nil
		}
		switch rnd.IntN(5) {
		case 0:
			store.set(broken, broken)
		case 1:
			store.set(nil, broken)
		case 2:
			store.set(nil, nil)
		case 3:
			store.set(slow, slow)
		case 4: // crash: what is in flight is forgotten, what only the memory knew too
			world.Lock()
			defer world.Unlock()
			start()
			clear(world.holder[:])
			store.mu.Lock()
			defer store.mu.Unlock()
			for event := range events {
				_, recorded := store.records[id(event)]
				world.delivered[event] = recorded && !world.forgotten[event]
			}
		}
	}

	var wg sync.WaitGroup
	var next atomic.Int64
	for actor := range actors {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(actor)))
			for {
				step := int(next.Add(1)-1) / actors // together, so that they meet
				if step >= steps {
					return
				}
				if rnd.IntN(40) == 0 {
					disturb(rnd)
				}
				act(rnd, step+rnd.IntN(near))
			}
		})
	}
	wg.Wait() // and so nobody is left waiting
	if n, _ := world.ledger.load(); n > 0 {
		t.Errorf("%d claims stay behind", n)
	}
	store.set(nil, nil)
	for _, ledger := range ledgers { // or they try to record for ever
		if err := ledger.close(); err != nil {
			t.Error(err)
		}
	}
	return int(claims.Load())
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
	b := newBackend(t, nil)
	b.answer = func(w http.ResponseWriter, r *http.Request) {
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
	s := run(t, guard(b, "in_flight_wait 2s"))
	client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 64, MaxIdleConnsPerHost: 64}}
	request := func(i int) *http.Request {
		task := "task-" + strconv.Itoa(i%events)
		r := signed(s.url("/"), taskEvent(task))
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
				got, err := doWith(client, request(i).WithContext(ctx))
				cancel()
				if err != nil {
					hungUp.Add(1)
					continue
				}
				statuses[got.status].Add(1)
			}
		})
	}
	for i := range requests {
		next <- i
		if i%(requests/10) == 0 {
			s.mustLoad(guard(b, fmt.Sprintf("in_flight_wait 2s\nretention %dh", 1+i)))
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
		eventually(t, "event is accepted", func() bool {
			got, err := doWith(client, request(i))
			return err == nil && got.status == http.StatusOK
		})
		if task := "task-" + strconv.Itoa(i); counter(&accepted, task).Load() != 1 {
			t.Errorf("%s was accepted %d times", task, counter(&accepted, task).Load())
		}
	}
	client.CloseIdleConnections()
	b.CloseClientConnections() // idle ones of the configs that went
	eventually(t, "nobody is left waiting", func() bool { return runtime.NumGoroutine() <= goroutines+2 })
}
