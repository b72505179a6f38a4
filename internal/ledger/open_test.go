package ledger

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/instantapi/caddy-instantapi-verify/store"
	"github.com/instantapi/caddy-instantapi-verify/store/storetest"
)

var (
	errDamaged = errors.New("it is damaged")
	errFull    = fmt.Errorf("disk is full: %w", store.ErrUnavailable)
)

// openingLedger is a ledger whose store opens when and as a test says.
type openingLedger struct {
	*Ledger
	result   atomic.Pointer[error] // of opening; nil: it does not end
	attempts atomic.Int32
	released atomic.Int32
}

func newOpeningLedger(faulty store.Store, result *error) *openingLedger {
	l := new(openingLedger)
	l.result.Store(result)
	l.Ledger = Open(func(ctx context.Context) (store.Store, error) {
		l.attempts.Add(1)
		err := l.result.Load()
		if err == nil {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		if *err != nil {
			return nil, *err
		}
		return faulty, nil
	}, func() { l.released.Add(1) }, zap.NewNop, testMetrics)
	return l
}

func (l *openingLedger) close(t *testing.T) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if n := l.released.Load(); n != 1 {
		t.Errorf("the storage is released %d times", n)
	}
}

// Only a fault that a person must mend keeps a configuration from loading.
func TestAwaitOpenTellsWhatAPersonMustMend(t *testing.T) {
	for name, test := range map[string]struct{ result, want error }{
		"open":        {nil, nil},
		"unavailable": {errFull, nil},
		"damaged":     {errDamaged, errDamaged},
	} {
		t.Run(name, func(t *testing.T) {
			l := newOpeningLedger(new(storetest.Faulty), &test.result)
			defer l.close(t)
			if err := l.AwaitOpen(); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

// A store that can't be opened is tried again until it can be: soon if the
// cause may pass by itself, and later if a person must mend it.
func TestOpeningIsTriedAgain(t *testing.T) {
	for name, test := range map[string]struct {
		result error
		within time.Duration
	}{
		"unavailable": {errFull, reopenUnavailable},
		"damaged":     {errDamaged, reopenBroken},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newOpeningLedger(new(storetest.Faulty), &test.result)
				defer l.close(t)
				time.Sleep(3*test.within + time.Second)
				if n := l.attempts.Load(); n != 4 {
					t.Errorf("%d attempts, want 4", n)
				}
				if c, _, err := l.Claim(t.Context(), store.Identity{1}, 0); c == nil || !errors.Is(err, test.result) {
					t.Errorf("claiming: got %v, want a claim and %v", err, test.result)
				} else {
					c.Release()
				}
				l.result.Store(new(error))
				time.Sleep(test.within)
				c, _, err := l.Claim(t.Context(), store.Identity{1}, 0)
				if err != nil {
					t.Fatalf("claiming after it is mended: %v", err)
				}
				c.Release()
			})
		})
	}
}

// A slow opening holds up neither a configuration nor a request for longer than
// patience, and the store is used as soon as it is open.
func TestSlowOpeningHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opened := make(chan struct{})
		l := Open(func(context.Context) (store.Store, error) {
			<-opened
			return new(storetest.Faulty), nil
		}, func() {}, zap.NewNop, testMetrics)
		start := time.Now()
		c, _, err := l.Claim(t.Context(), store.Identity{1}, 0)
		if !errors.Is(err, ErrOpening) || time.Since(start) != patience {
			t.Errorf("claiming: got %v after %s", err, time.Since(start))
		}
		if err := l.AwaitOpen(); err != nil {
			t.Errorf("a configuration that loads: got %v", err)
		}
		if err := c.Delivered(store.Record{Status: 200}); !errors.Is(err, ErrOpening) {
			t.Errorf("recording: got %v", err)
		}
		close(opened)
		time.Sleep(2 * retryUnrecorded)
		if _, unrecorded := l.Load(); unrecorded != 0 {
			t.Error("the delivery is not recorded when the store is open")
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
}

// Closing ends an opening, and releases the storage.
func TestCloseWhileTheStoreIsOpening(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newOpeningLedger(new(storetest.Faulty), nil)
		time.Sleep(time.Second)
		l.close(t)
	})
}

// A store that does not answer does not keep a process from ending; the storage
// is not released before the store answers.
func TestCloseOfAStoreThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opened, released := make(chan struct{}), make(chan struct{})
		l := Open(func(context.Context) (store.Store, error) {
			<-opened // ignores the context
			return new(storetest.Faulty), nil
		}, func() { close(released) }, zap.NewNop, testMetrics)
		start := time.Now()
		if err := l.Close(); err == nil || time.Since(start) != patience {
			t.Errorf("got %v after %s", err, time.Since(start))
		}
		select {
		case <-released:
			t.Error("the storage is released while it is being opened")
		default:
		}
		close(opened)
		<-released
	})
}
