package ledger

import (
	"context"
	"errors"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/store"
)

// Knowledge is what is known of an event.
type Knowledge struct {
	InFlight   time.Time     // since when; zero: not being delivered
	Delivered  *store.Record // nil: not delivered, or forgotten
	Unrecorded bool          // delivered, but only this process remembers it
}

// Ask returns what is known of an event. It claims nothing. It asks the store
// even about an event that is claimed, because a repeat that is being looked up
// has a claim too.
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
		return known, nil // Ask does not need the store to record anything
	}
	return known, err
}

// Forget makes a delivered event new again: the next attempt is forwarded. It
// returns the record of the delivery, or nil if there was none. The error is
// [ErrInFlight] if the event is being delivered.
func (l *Ledger) Forget(ctx context.Context, id store.Identity) (*store.Record, error) {
	c, err := l.enterToForget(ctx, id)
	if err != nil {
		return nil, err
	}
	defer c.Release() // requests that arrive meanwhile wait
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

// repeatPatience is how long Forget waits for the lookup of a repeat to end. A
// claim that lasts longer is a delivery after all, begun while the store could
// not say that the event was known.
const repeatPatience = time.Second

// enterToForget is enter for Forget. It waits for repeats that are being looked
// up: they are no deliveries, and end in a moment.
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
