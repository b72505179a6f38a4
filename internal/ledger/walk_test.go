package ledger

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
	"github.com/instantapi/caddy-instantapi-verify/store"
	"github.com/instantapi/caddy-instantapi-verify/store/storetest"
)

// A random walk over everything that can happen to a claim, checked against a
// model: who holds an event, and whether somebody has been told that it was
// delivered.
func TestClaimsKeepTheirPromisesInAnyOrder(t *testing.T) {
	seeds := 30
	if caddytest.Long() {
		seeds = 2000
	}
	claims := 0
	for seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { claims += walkAtRandom(t, uint64(seed)) })
	}
	t.Logf("%d claims in %d walks", claims, seeds)
	if claims < 50*seeds {
		t.Error("these are too few to prove anything")
	}
}

const (
	walkActors = 8
	walkSteps  = 150

	// The actors move from event to event together, each to one of the nearest,
	// so that they meet, and so that there is always an event that nobody has
	// delivered yet.
	walkNear   = 4
	walkEvents = walkSteps + walkNear - 1
)

// walk is the state of one random walk, and the model that it is checked
// against.
type walk struct {
	t      *testing.T
	store  storetest.Faulty
	claims atomic.Int64

	mu        sync.Mutex
	ledger    *Ledger
	ledgers   []*Ledger // of all lives
	life      int       // of the process; a crash ends it
	holder    [walkEvents]bool
	delivered [walkEvents]bool // acknowledged, and so never to be claimed again
	forgotten [walkEvents]bool // may be claimed again, whatever was acknowledged
}

// walkAtRandom has all actors take all steps, and returns how often an event was
// claimed.
func walkAtRandom(t *testing.T, seed uint64) int {
	w := &walk{t: t}
	w.begin()
	var wg sync.WaitGroup
	var steps atomic.Int64
	for actor := range walkActors {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(actor)))
			for {
				step := int(steps.Add(1)-1) / walkActors
				if step >= walkSteps {
					return
				}
				w.step(rnd, step+rnd.IntN(walkNear))
			}
		})
	}
	wg.Wait() // and so nobody is left waiting
	w.end()
	return int(w.claims.Load())
}

func walkID(event int) store.Identity { return store.Identity{byte(event), byte(event >> 8)} }

// begin begins a life. The caller holds mu, or is alone.
func (w *walk) begin() {
	w.ledger = newTestLedger(&w.store)
	w.ledgers = append(w.ledgers, w.ledger)
	w.life++
	clear(w.holder[:])
}

// end checks that nothing stays behind.
func (w *walk) end() {
	if n, _ := w.ledger.Load(); n > 0 {
		w.t.Errorf("%d claims stay behind", n)
	}
	w.store.SetFaults(nil, nil)
	for _, ledger := range w.ledgers { // or they try to record for ever
		if err := ledger.Close(); err != nil {
			w.t.Error(err)
		}
	}
}

// step is what an actor does at an event: now and then something goes wrong, or
// the event is forgotten; otherwise the actor tries to deliver it.
func (w *walk) step(rnd *rand.Rand, event int) {
	if rnd.IntN(40) == 0 {
		w.disturb(rnd)
	}
	if rnd.IntN(40) == 0 {
		w.forget(event)
		return
	}
	w.deliver(rnd, event)
}

// disturb makes the store fail, dawdle or work again, or the process crash.
func (w *walk) disturb(rnd *rand.Rand) {
	broken := storetest.Always(errors.New("broken"))
	slow := func(context.Context, store.Identity) error {
		time.Sleep(time.Duration(rand.IntN(300)) * time.Microsecond)
		return nil
	}
	switch rnd.IntN(5) {
	case 0:
		w.store.SetFaults(broken, broken)
	case 1:
		w.store.SetFaults(nil, broken)
	case 2:
		w.store.SetFaults(nil, nil)
	case 3:
		w.store.SetFaults(slow, slow)
	case 4:
		w.crash()
	}
}

// crash begins a new life, which knows only what was recorded.
func (w *walk) crash() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.begin()
	records := w.store.Records()
	for event := range walkEvents {
		_, recorded := records[walkID(event)]
		w.delivered[event] = recorded && !w.forgotten[event]
	}
}

func (w *walk) forget(event int) {
	w.mu.Lock()
	ledger := w.ledger
	w.forgotten[event], w.delivered[event] = true, false
	w.mu.Unlock()
	_, _ = ledger.Forget(context.Background(), walkID(event))
}

// deliver claims an event and, in one of three cases, delivers it, for a sender
// that may hang up and a wait that may be too short.
func (w *walk) deliver(rnd *rand.Rand, event int) {
	w.mu.Lock()
	ledger, life := w.ledger, w.life
	w.mu.Unlock()
	ctx, hangUp := context.WithTimeout(context.Background(), time.Duration(rnd.IntN(3)+1)*time.Millisecond)
	defer hangUp()
	c, before, err := ledger.Claim(ctx, walkID(event), time.Duration(rnd.IntN(3))*time.Millisecond)
	switch {
	case c == nil && before == nil && err == nil:
		w.t.Error("neither a claim, nor a record, nor an error")
		return
	case c == nil:
		return
	case err != nil: // as with on_store_error reject
		c.Release()
		return
	}
	w.claims.Add(1)
	w.inLife(life, func() { w.wantToHold(event) })
	if rnd.IntN(2) == 0 {
		time.Sleep(time.Duration(rnd.IntN(1000)) * time.Microsecond)
	}
	w.inLife(life, func() {
		w.wantUndelivered(event)
		w.holder[event] = false
	})
	if rnd.IntN(3) > 0 {
		c.Release()
		return
	}
	// Even with an error the event is acknowledged: in this life the process
	// remembers it.
	_ = c.Delivered(store.Record{Status: 200})
	w.inLife(life, func() { w.delivered[event] = !w.forgotten[event] })
}

// inLife calls do unless that life is over: what is left of it no longer
// matters.
func (w *walk) inLife(life int, do func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.life == life {
		do()
	}
}

// wantToHold makes the caller the holder of an event, if there may be one.
func (w *walk) wantToHold(event int) {
	w.wantUndelivered(event)
	if w.holder[event] {
		w.t.Errorf("event %d is claimed twice at once", event)
	}
	w.holder[event] = true
}

func (w *walk) wantUndelivered(event int) {
	if w.delivered[event] {
		w.t.Errorf("event %d is claimed after it was acknowledged", event)
	}
}
