package storetest

import (
	"context"
	"crypto/rand"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/store"
)

// Run checks that a store keeps the contract of [store.Store]. Each test calls
// open for a new, empty store, and closes it.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	s := suite{open: open}
	for name, test := range map[string]func(*testing.T){
		"unknown event":                          s.unknownEvent,
		"record is found as it was written":      s.roundTrip,
		"second record replaces the first":       s.replace,
		"forgotten event is new":                 s.forget,
		"expired event is new":                   s.expiry,
		"callers do not get in each other's way": s.concurrency,
		"context that has ended":                 s.endedContext,
		"closed store":                           s.closed,
		"close among calls":                      s.closeAmongCalls,
		"statistics":                             s.statistics,
	} {
		t.Run(name, test)
	}
}

// RunDurable is [Run] for a store whose events outlive its closing, which it
// checks too: reopen opens the storage of a closed store again.
func RunDurable(t *testing.T, open func(t *testing.T) store.Store, reopen func(t *testing.T, closed store.Store) store.Store) {
	Run(t, open)
	s := suite{open: open, reopen: reopen}
	t.Run("events outlive the store", s.durability)
	t.Run("what is recorded while the store closes outlives it", s.durabilityAmongCalls)
}

type suite struct {
	open   func(t *testing.T) store.Store
	reopen func(t *testing.T, closed store.Store) store.Store
}

// start opens a store, and closes it at the end of the test unless the test has
// closed it.
func (s suite) start(t *testing.T) opened {
	t.Helper()
	o := opened{t, s.open(t)}
	t.Cleanup(func() { _ = o.Close() }) // for the second time if the test has closed it
	return o
}

// restart closes a store and opens its storage again.
func (s suite) restart(o opened) opened {
	o.t.Helper()
	o.mustClose()
	again := opened{o.t, s.reopen(o.t, o.Store)}
	o.t.Cleanup(func() { _ = again.Close() })
	return again
}

func newIdentity() (id store.Identity) {
	rand.Read(id[:])
	return id
}

// delivery returns a record of a delivery now, which expires in an hour.
func delivery() store.Record {
	now := time.Now().Truncate(time.Second)
	return store.Record{DeliveredAt: now, ExpiresAt: now.Add(time.Hour), Status: 200, BodyHash: 1}
}

func (s suite) unknownEvent(t *testing.T) {
	o := s.start(t)
	o.wantUnknown(newIdentity())
	o.mustForget(newIdentity())
}

// records returns records with extreme values.
func records() map[store.Identity]store.Record {
	now := time.Now().Truncate(time.Second)
	last := store.Identity{}
	for i := range last {
		last[i] = 0xff
	}
	return map[store.Identity]store.Record{
		{}:            {DeliveredAt: now, Status: 200},
		last:          {DeliveredAt: now, ExpiresAt: now.Add(time.Hour), Status: 299, BodyHash: 1<<64 - 1},
		newIdentity(): {DeliveredAt: time.Unix(1, 0), ExpiresAt: now.AddDate(100, 0, 0), Status: 204, BodyHash: 1 << 63},
		newIdentity(): {DeliveredAt: now.AddDate(100, 0, 0), Status: 201, BodyHash: 1},
	}
}

func (s suite) roundTrip(t *testing.T) {
	o := s.start(t)
	all := records()
	for id, rec := range all {
		o.wantUnknown(id)
		o.mustRecord(id, rec)
		o.wantKnown(id, rec) // at once
	}
	for id, rec := range all {
		o.wantKnown(id, rec)
	}
}

func (s suite) replace(t *testing.T) {
	o := s.start(t)
	id, other := newIdentity(), newIdentity()
	rec := delivery()
	forEver := store.Record{DeliveredAt: rec.DeliveredAt, Status: 202, BodyHash: 2}
	o.mustRecord(other, rec)
	for _, rec := range []store.Record{rec, forEver, rec} {
		o.mustRecord(id, rec)
		o.wantKnown(id, rec)
	}
	o.wantKnown(other, rec)
}

func (s suite) forget(t *testing.T) {
	o := s.start(t)
	id, other := newIdentity(), newIdentity()
	rec := delivery()
	forEver := store.Record{DeliveredAt: rec.DeliveredAt, Status: 200}
	o.mustRecord(other, rec)
	for _, rec := range []store.Record{rec, forEver} {
		o.mustRecord(id, rec)
		for range 2 { // the second time it is unknown already
			o.mustForget(id)
			o.wantUnknown(id)
		}
	}
	o.mustRecord(id, rec)
	o.wantKnown(id, rec)
	o.wantKnown(other, rec)
}

func (s suite) expiry(t *testing.T) {
	o := s.start(t)
	short, long, past := newIdentity(), newIdentity(), newIdentity()
	rec := delivery()
	o.mustRecord(long, rec)
	expired := rec
	expired.ExpiresAt = time.Now().Add(-time.Hour).Truncate(time.Second)
	o.mustRecord(past, expired)
	o.wantUnknown(past)

	soon := rec
	soon.ExpiresAt = time.Now().Add(3 * time.Second).Truncate(time.Second) // 2 to 3 s
	o.mustRecord(short, soon)
	if time.Until(soon.ExpiresAt) > time.Second {
		o.wantKnown(short, soon)
	} else {
		t.Log("too slow a machine to see that an event is known until it expires")
	}
	time.Sleep(time.Until(soon.ExpiresAt) + time.Second)
	o.wantUnknown(short)
	o.wantKnown(long, rec)
	o.mustRecord(short, rec)
	o.wantKnown(short, rec)
}

// concurrency lets each caller work on events of its own, and all callers on
// one event.
func (s suite) concurrency(t *testing.T) {
	const callers, events = 16, 25
	o := s.start(t)
	shared := newIdentity()
	rec := delivery()
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for range events {
				own := newIdentity()
				o.wantUnknown(own)
				o.mustRecord(own, rec)
				o.mustRecord(shared, rec)
				o.wantKnown(own, rec)
				o.mustForget(own)
				o.wantUnknown(own)
				o.wantKnown(shared, rec)
			}
		})
	}
	wg.Wait()
}

// endedContext makes calls whose context has ended: they give up, or have their
// full effect.
func (s suite) endedContext(t *testing.T) {
	o := s.start(t)
	known, id := newIdentity(), newIdentity()
	rec := delivery()
	o.mustRecord(known, rec)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	o.within("looking up too late", func() {
		if got, found, err := o.Lookup(ctx, known); err == nil && (!found || got.Status != rec.Status) {
			t.Errorf("looking up too late: found %t (%+v) and no error", found, got)
		}
	})
	o.within("recording too late", func() {
		if err := o.Record(ctx, id, rec); err == nil {
			o.wantKnown(id, rec)
		}
	})
	o.within("forgetting too late", func() {
		if err := o.Forget(ctx, known); err == nil {
			o.wantUnknown(known)
		}
	})
	// The store goes on working.
	o.mustRecord(id, rec)
	o.wantKnown(id, rec)
}

func (s suite) closed(t *testing.T) {
	o := s.start(t)
	id := newIdentity()
	o.mustRecord(id, delivery())
	o.mustClose()
	o.wantClosed(id)
}

func (s suite) closeAmongCalls(t *testing.T) {
	o := s.start(t)
	o.closeAmongCalls()
	o.wantClosed(newIdentity())
}

// closeAmongCalls closes a store during concurrent calls, and returns the
// events that were recorded.
func (o opened) closeAmongCalls() (recorded []store.Identity) {
	o.t.Helper()
	const callers = 16
	var mu sync.Mutex
	var wg sync.WaitGroup
	var calls atomic.Int64
	known := newIdentity()
	o.mustRecord(known, delivery())
	for range callers {
		wg.Go(func() {
			for {
				id := newIdentity()
				_, found, lookupErr := o.Lookup(context.Background(), known)
				if lookupErr == nil && !found {
					o.t.Error("a store that is being closed does not know an event that it has recorded")
				}
				err := o.Record(context.Background(), id, delivery())
				if lookupErr != nil || err != nil {
					return
				}
				calls.Add(1)
				mu.Lock()
				recorded = append(recorded, id)
				mu.Unlock()
			}
		})
	}
	for deadline := time.Now().Add(bound); calls.Load() < 10*callers && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	o.mustClose()
	o.within("a call beside close", wg.Wait)
	if len(recorded) == 0 {
		o.t.Error("nothing was recorded, so this proves nothing")
	}
	return recorded
}

func (s suite) statistics(t *testing.T) {
	o := s.start(t)
	reader, ok := o.Store.(store.StatisticsReader)
	if !ok {
		t.Log("this store reports no statistics, and need not")
		return
	}
	const events = 100
	for range events {
		o.mustRecord(newIdentity(), delivery())
	}
	o.within("statistics", func() {
		got, err := reader.Statistics(context.Background())
		if err != nil || got.Events < events || got.Bytes < 0 {
			t.Errorf("got %+v and %v, want %d events", got, err, events)
		}
	})
}

func (s suite) durability(t *testing.T) {
	o := s.start(t)
	all := records()
	for id, rec := range all {
		o.mustRecord(id, rec)
	}
	forgotten, replaced := newIdentity(), newIdentity()
	o.mustRecord(forgotten, delivery())
	o.mustForget(forgotten)
	o.mustRecord(replaced, store.Record{DeliveredAt: delivery().DeliveredAt, Status: 202})
	rec := delivery()
	o.mustRecord(replaced, rec)
	for range 2 {
		o = s.restart(o)
		for id, rec := range all {
			o.wantKnown(id, rec)
		}
		o.wantUnknown(forgotten)
		o.wantKnown(replaced, rec)
		o.wantUnknown(newIdentity())
	}
}

func (s suite) durabilityAmongCalls(t *testing.T) {
	o := s.start(t)
	recorded := o.closeAmongCalls()
	again := opened{t, s.reopen(t, o.Store)}
	t.Cleanup(func() { _ = again.Close() })
	for _, id := range recorded {
		if _, found, err := again.Lookup(context.Background(), id); err != nil || !found {
			t.Fatalf("an event that was recorded while the store closed: found %t, error %v", found, err)
		}
	}
}
