// Package ledger decides which request may deliver an event, and remembers
// delivered events in a store.
package ledger

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/store"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// ErrInFlight means that another request has been delivering the event for as
// long as the caller was ready to wait.
var ErrInFlight = errors.New("another request is delivering this event")

// errNotRecording means that the store has refused to record a delivery. Until
// the store records it no new event is accepted: deliveries that only this
// process remembers are lost when the process ends.
var errNotRecording = errors.New("store does not record deliveries at present, see its last error")

// Ledger decides which request may forward an event. Claims are kept only in
// memory, so that a crash leaves none behind; delivered events are in the
// store.
//
// All handlers on one store share a Ledger, including those of an older and a
// newer config while one takes over from the other.
type Ledger struct {
	opening opening
	opened  atomic.Pointer[store.Store] // nil until the store is open
	log     func() *zap.Logger          // not a logger: a ledger outlives configs
	metrics Metrics

	lastError atomic.Pointer[Failure] // nil: none so far

	mu         sync.Mutex
	inFlight   map[store.Identity]*Claim
	unrecorded map[store.Identity]store.Record // delivered, but not recorded by the store
	retrying   bool
	recording  sync.Mutex // held while an unrecorded delivery is recorded, or an event forgotten
	closed     chan struct{}
	retries    sync.WaitGroup
}

// Open returns a ledger over the store that open opens. It does not wait until
// the store is open, see [Ledger.AwaitOpen]: it calls open in the background,
// and again until open succeeds. After [Ledger.Close], the ledger calls
// released when nothing uses the storage any more. It calls log for each line,
// because a ledger outlives the configuration that opened it.
func Open(open func(context.Context) (store.Store, error), released func(), log func() *zap.Logger, metrics Metrics) *Ledger {
	l := &Ledger{
		opening:    opening{open: open, released: released, ended: make(chan struct{}), settled: make(chan struct{}), err: ErrOpening},
		log:        log,
		metrics:    metrics,
		inFlight:   make(map[store.Identity]*Claim),
		unrecorded: make(map[store.Identity]store.Record),
		closed:     make(chan struct{}),
	}
	l.begin()
	return l
}

// Metrics is what a ledger counts and measures.
type Metrics struct {
	OpenErrors, LookupErrors, RecordErrors, ForgetErrors prometheus.Counter
	LookupSeconds, RecordSeconds                         prometheus.Observer
}

// Earlier is an earlier delivery of an event. The store returns no expired one,
// see [store.Store].
type Earlier struct {
	store.Record
	Waited bool // the caller waited while another request delivered it
}

// Claim asks for the right to deliver an event.
//
//   - A claim and no error: deliver it.
//   - A claim and an error: nobody else is delivering it, but the store can't
//     say whether somebody has. Release it, or deliver it unprotected.
//   - A record: it was delivered before.
//   - Only an error: ErrInFlight after wait, or ctx's own.
func (l *Ledger) Claim(ctx context.Context, id store.Identity, wait time.Duration) (*Claim, *Earlier, error) {
	timer := (*time.Timer)(nil)
	for {
		c, first := l.enter(id)
		if first {
			return c.lookUp(ctx)
		}
		if timer == nil {
			timer = time.NewTimer(wait)
			defer timer.Stop()
		}
		select {
		case <-c.ended:
		case <-timer.C:
			return nil, nil, ErrInFlight
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
		if c.record != nil {
			return nil, &Earlier{*c.record, true}, nil
		}
		// The delivery failed. Everyone who waited is here now, and the one
		// who enters first takes over.
	}
}

// enter returns the claim on an event, and whether the caller is the first to
// ask for it and so its holder.
func (l *Ledger) enter(id store.Identity) (c *Claim, first bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.inFlight[id]; c != nil {
		if c.ended == nil {
			c.ended = make(chan struct{})
		}
		return c, false
	}
	c = &Claim{ledger: l, id: id, since: time.Now()}
	l.inFlight[id] = c
	return c, true
}

func (l *Ledger) lookup(ctx context.Context, id store.Identity) (store.Record, bool, error) {
	l.mu.Lock()
	rec, found := l.unrecorded[id]
	notRecording := len(l.unrecorded) > 0
	l.mu.Unlock()
	if found {
		return rec, true, nil
	}
	opened, err := l.ready(ctx)
	if err != nil {
		return rec, false, err // the attempt to open it was counted
	}
	rec, found, err = opened.Lookup(ctx, id)
	if err != nil {
		l.failed(l.metrics.LookupErrors, err)
	} else if !found && notRecording {
		err = errNotRecording
	}
	return rec, found, err
}

// record takes no context: what a backend has accepted is recorded whether or
// not the sender still waits.
func (l *Ledger) record(id store.Identity, rec store.Record) error {
	opened, err := l.Store()
	if err == nil {
		err = opened.Record(context.Background(), id, rec)
	}
	if err != nil {
		l.failed(l.metrics.RecordErrors, err)
	}
	return err
}

// Failure is an error of the store, for people to read.
type Failure struct {
	At  time.Time
	Err error
}

func (l *Ledger) failed(counter prometheus.Counter, err error) {
	counter.Inc()
	l.lastError.Store(&Failure{time.Now(), err})
}

// LastFailure returns the store's last error, or nil if there was none. Its
// cause may have passed since.
func (l *Ledger) LastFailure() *Failure { return l.lastError.Load() }

// Load returns how many events are being delivered, and how many deliveries the
// store still refuses to record.
func (l *Ledger) Load() (inFlight, unrecorded int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.inFlight), len(l.unrecorded)
}

// Close ends the ledger and closes its store. Nobody may hold a claim any more.
func (l *Ledger) Close() error {
	l.mu.Lock()
	close(l.closed)
	l.mu.Unlock()
	l.retries.Wait()
	l.recordKept()
	l.mu.Lock()
	lost := len(l.unrecorded)
	l.mu.Unlock()
	if lost > 0 {
		l.log().Error("closing a store that still refuses to record deliveries; their events are forwarded again when they are sent again",
			zap.Int("events", lost))
	}
	return l.closeStore()
}
