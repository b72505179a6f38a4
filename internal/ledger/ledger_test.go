package ledger

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/store"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

func newTestLedger(s store.Store) *Ledger {
	l := Open(func(context.Context) (store.Store, error) { return s, nil }, func() {}, zap.NewNop, testMetrics)
	if err := l.AwaitOpen(); err != nil {
		panic(err)
	}
	return l
}

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
	id := func(event int) store.Identity { return store.Identity{byte(event), byte(event >> 8)} }
	faulty := new(faultyStore)

	var world struct {
		sync.Mutex
		ledger    *Ledger
		life      int          // of the process; a crash ends it
		holder    [events]bool // somebody has the claim
		delivered [events]bool // acknowledged, and so never to be claimed again
		forgotten [events]bool // may be claimed again, whatever was acknowledged
	}
	var ledgers []*Ledger // of all lives
	start := func() {
		world.ledger = newTestLedger(faulty)
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
			_, _ = ledger.Forget(context.Background(), id(event))
			return
		}
		ctx, hangUp := context.WithTimeout(context.Background(), time.Duration(rnd.IntN(3)+1)*time.Millisecond)
		defer hangUp()
		c, before, err := ledger.Claim(ctx, id(event), time.Duration(rnd.IntN(3))*time.Millisecond)
		if c == nil {
			if before == nil && err == nil {
				t.Error("neither a claim, nor a record, nor an error")
			}
			return
		}
		if err != nil { // on_store_error reject
			c.Release()
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
			c.Release()
			return
		}
		// With an error it is acknowledged, too: in this life the memory knows it.
		_ = c.Delivered(store.Record{Status: 200})
		inLife(life, func() { world.delivered[event] = !world.forgotten[event] })
	}
	disturb := func(rnd *rand.Rand) {
		broken := func(store.Identity) error { return errors.New("broken") }
		slow := func(store.Identity) error {
			time.Sleep(time.Duration(rand.IntN(300)) * time.Microsecond)
			return nil
		}
		switch rnd.IntN(5) {
		case 0:
			faulty.set(broken, broken)
		case 1:
			faulty.set(nil, broken)
		case 2:
			faulty.set(nil, nil)
		case 3:
			faulty.set(slow, slow)
		case 4: // crash: what is in flight is forgotten, what only the memory knew too
			world.Lock()
			defer world.Unlock()
			start()
			clear(world.holder[:])
			faulty.mu.Lock()
			defer faulty.mu.Unlock()
			for event := range events {
				_, recorded := faulty.records[id(event)]
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
	if n, _ := world.ledger.Load(); n > 0 {
		t.Errorf("%d claims stay behind", n)
	}
	faulty.set(nil, nil)
	for _, ledger := range ledgers { // or they try to record for ever
		if err := ledger.Close(); err != nil {
			t.Error(err)
		}
	}
	return int(claims.Load())
}

var testMetrics = Metrics{
	OpenErrors:   prometheus.NewCounter(prometheus.CounterOpts{}),
	LookupErrors: prometheus.NewCounter(prometheus.CounterOpts{}), RecordErrors: prometheus.NewCounter(prometheus.CounterOpts{}),
	ForgetErrors:  prometheus.NewCounter(prometheus.CounterOpts{}),
	LookupSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{}), RecordSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{}),
}

// Claiming costs a request little that a collector would have to clean up.
func TestClaimingHardlyAllocates(t *testing.T) {
	l := newTestLedger(new(faultyStore))
	claims := testing.AllocsPerRun(1000, func() {
		c, _, _ := l.Claim(context.Background(), store.Identity{}, 0)
		c.Release()
	})
	if claims > 2 { // the claim and its channel
		t.Errorf("a claim allocates %v times", claims)
	}
}
