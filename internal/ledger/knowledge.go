package ledger

import (
	"context"
	"errors"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/store"
)

// Knowledge is what is known of an event.
type Knowledge struct {
	InFlight   time.Time     // since when; zero: nobody is delivering it
	Delivered  *store.Record // nil: it was not, or is forgotten
	Unrecorded bool          // delivered, as only this process knows
}

// Ask returns what is known of an event. It claims nothing. The store is asked
// also about an event that is in flight: a repeat that is just being looked up
// has a claim, too.
func (l *Ledger) Ask(ctx context.Context, id store.Identity) (known Knowledge, err error) {
	l.mu.Lock()
	c := l.inFlight[id]
	_, known.Unrecorded = l.unrecorded[id]
	l.mu.Unlock()
	rec, found, err := l.lookup(ctx, id)
	switch {
	case found:
		known.Delivered = &rec
	case c != nil:
		known.InFlight = c.since
		return known, nil
	case errors.Is(err, store.ErrCannotRecord) || errors.Is(err, errNotRecording):
		return known, nil // it could not be recorded, but nobody wants to
	}
	return known, err
}

// Forget makes a delivered event new again: the next attempt is forwarded. It
// returns the delivery, nil if there was none. The error ErrInFlight means that
// the event is being delivered just now.
func (l *Ledger) Forget(ctx context.Context, id store.Identity) (*store.Record, error) {
	c, err := l.enterToForget(ctx, id)
	if err != nil {
		return nil, err
	}
	defer c.Release() // who comes meanwhile waits
	rec, found, err := l.lookup(ctx, id)
	if err != nil || !found {
		return nil, err
	}
	l.recording.Lock()
	defer l.recording.Unlock()
	opened, err := l.ready(ctx)
	if err != nil {
		return nil, err
	}
	if err := opened.Forget(ctx, id); err != nil {
		l.failed(l.metrics.ForgetErrors, err)
		return nil, err
	}
	l.mu.Lock()
	delete(l.unrecorded, id)
	l.mu.Unlock()
	return &rec, nil
}

// repeatPatience is how long forget waits for the end of a repeat's lookup. What
// takes longer is a delivery after all, of an event that the store knew nothing of
// when it was asked because it failed.
const repeatPatience = time.Second

// enterToForget is enter, but behind repeats that are just being looked up: they
// are over in a moment, and are no delivery.
func (l *Ledger) enterToForget(ctx context.Context, id store.Identity) (*Claim, error) {
	for {
		c, first := l.enter(id)
		if first {
			return c, nil
		}
		known, err := l.Ask(ctx, id)
		if err != nil {
			return nil, err
		}
		if known.Delivered == nil {
			return nil, ErrInFlight
		}
		select {
		case <-c.ended:
		case <-time.After(repeatPatience):
			return nil, ErrInFlight
		}
	}
}
