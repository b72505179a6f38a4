package ledger

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
	"github.com/instantapi/caddy-instantapi-verify/store"
	"github.com/instantapi/caddy-instantapi-verify/store/storetest"
)

// A store without room for more events still knows those that it has.
func TestAskingAFullStore(t *testing.T) {
	known, unknown := store.Identity{1}, store.Identity{2}
	full := fmt.Errorf("%w: 1 B free", store.ErrCannotRecord)
	faulty := new(storetest.Faulty)
	faulty.SetRecords(map[store.Identity]store.Record{known: {Status: 200}})
	faulty.SetFaults(func(_ context.Context, id store.Identity) error {
		if id == unknown {
			return full
		}
		return nil
	}, nil)
	l := newTestLedger(faulty)
	if got, err := l.Ask(t.Context(), known); got.Delivered == nil || err != nil {
		t.Errorf("got %+v %v, want the delivery", got, err)
	}
	if got, err := l.Ask(t.Context(), unknown); got != (Knowledge{}) || err != nil {
		t.Errorf("got %+v %v, want nothing", got, err)
	}
	if _, _, err := l.Claim(t.Context(), unknown, 0); !errors.Is(err, store.ErrCannotRecord) {
		t.Errorf("claiming: got %v, want %v", err, store.ErrCannotRecord)
	}
}

// Events may be forgotten while the deliveries that the store refused are being
// recorded.
func TestForgettingAmongLateRecords(t *testing.T) {
	for range 200 {
		faulty := new(storetest.Faulty)
		l := newTestLedger(faulty)
		id := store.Identity{1}
		l.unrecorded[id] = store.Record{Status: 200}
		var forgotten atomic.Bool
		var wg sync.WaitGroup
		wg.Go(func() { l.recordKept() })
		wg.Go(func() {
			rec, err := l.Forget(t.Context(), id)
			if err != nil {
				t.Error(err)
			}
			forgotten.Store(rec != nil)
		})
		wg.Wait()
		if _, found, err := l.lookup(t.Context(), id); found || err != nil || !forgotten.Load() {
			t.Fatalf("found %t, forgotten %t, %v", found, forgotten.Load(), err)
		}
	}
}

// A repeat that is being looked up holds a claim, and must not pass for a
// delivery.
func TestRepeatsDoNotHideADelivery(t *testing.T) {
	id := store.Identity{1}
	faulty := new(storetest.Faulty)
	faulty.SetRecords(map[store.Identity]store.Record{id: {Status: 200}})
	l := newTestLedger(faulty)
	looking, look := make(chan struct{}), make(chan struct{})
	var lookups atomic.Int32
	faulty.SetFaults(func(context.Context, store.Identity) error {
		if lookups.Add(1) == 1 { // the repeat's
			close(looking)
			<-look
		}
		return nil
	}, nil)
	var repeat sync.WaitGroup
	repeat.Go(func() {
		if _, before, err := l.Claim(t.Context(), id, 0); before == nil || err != nil {
			t.Errorf("repeat: got %v %v, want the delivery", before, err)
		}
	})
	<-looking
	if known, err := l.Ask(t.Context(), id); known.Delivered == nil || !known.InFlight.IsZero() || err != nil {
		t.Errorf("got %+v %v, want the delivery", known, err)
	}
	if _, err := l.Forget(t.Context(), id); !errors.Is(err, ErrInFlight) {
		t.Errorf("forgetting does not end: got %v", err)
	}
	forgotten := make(chan error, 1)
	go func() {
		_, err := l.Forget(t.Context(), id)
		forgotten <- err
	}()
	caddytest.Eventually(t, "forgetting waits", func() bool { return lookups.Load() == 4 })
	close(look)
	if err := <-forgotten; err != nil || len(faulty.Records()) != 0 {
		t.Errorf("forgetting: %v, %d records are left", err, len(faulty.Records()))
	}
	repeat.Wait()
}
