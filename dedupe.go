package instantapi

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// Identity says which event a body is: two bodies of one identity are the same
// event. It is a SHA-256 cut to 128 bits, of which ten million events share one
// with a probability of 10^-25.
type Identity [16]byte

// String returns the identity in hex, as the backend gets it in the header
// Idempotency-Key.
func (id Identity) String() string { return hex.EncodeToString(id[:]) }

// What an identity is made of, so that no body's digest passes for a field.
const (
	identityOfFields = 'f'
	identityOfBody   = 'b'
)

// identifyFields returns the identity of the event whose fields have these values
// in this scope. Each part has its length in front: "ab" and "c" is not "a" and
// "bc". It is not ok where a field says nothing, or can't be told from another.
func identifyFields(scope string, values ...jsontext.Value) (id Identity, ok bool) {
	parts := appendPart(append(make([]byte, 0, 256), identityOfFields), scope)
	for _, value := range values {
		length := len(parts)
		parts = append(parts, make([]byte, lengthSize)...)
		start := len(parts)
		// With the kind in front, so that the text "1" is not the number 1.
		parts, ok = appendText(append(parts, byte(value.Kind())), value)
		if !ok || len(parts) == start+1 {
			return Identity{}, false
		}
		binary.BigEndian.PutUint64(parts[length:], uint64(len(parts)-start))
	}
	return cutDigest(parts), true
}

// lengthSize is how many bytes a part's length takes.
const lengthSize = 8

// identifyBody returns the identity of an event that has no fields to tell it
// by: what it says, to the byte.
func identifyBody(scope string, body []byte) Identity {
	digest := sha256.Sum256(body)
	return cutDigest(appendPart(appendPart([]byte{identityOfBody}, scope), string(digest[:])))
}

func appendPart(parts []byte, part string) []byte {
	parts = binary.BigEndian.AppendUint64(parts, uint64(len(part)))
	return append(parts, part...)
}

func cutDigest(parts []byte) Identity {
	digest := sha256.Sum256(parts)
	return Identity(digest[:len(Identity{})])
}

// Record is what is remembered of a delivered event.
type Record struct {
	DeliveredAt time.Time // to the second
	ExpiresAt   time.Time // to the second; zero: remembered for ever
	Status      int       // the backend's, 200 to 299
	BodyHash    uint64    // not a cryptographic one: the bytes were authentic
}

// Store remembers delivered events. Its methods are called concurrently.
type Store interface {
	// Lookup returns the record of an event. Not to find one is no error:
	// it promises that the store is ready to record the event now. An error
	// means that the store can't say, or that it could not record the event.
	Lookup(Identity) (rec Record, found bool, err error)

	// Record remembers an event, and returns when that is as durable as the
	// store was configured to be. It returns within a bounded time. Recording
	// an event again replaces its record.
	Record(Identity, Record) error

	// Forget makes an event new again, as durably as Record makes it known.
	// Not to know it is no error.
	Forget(Identity) error

	// Close makes what was recorded durable and lets go of the storage.
	io.Closer
}

// errInFlight means that another request has been delivering the event for as
// long as the caller was ready to wait.
var errInFlight = errors.New("another request is delivering this event")

// errNotRecording means that the store has refused to record a delivery. Until it
// takes that one it is not given more to refuse: what only the memory knows is
// gone with the process.
var errNotRecording = errors.New("store does not record deliveries at present, see its last error")

const (
	// maxUnrecorded bounds the deliveries kept in memory while the store does
	// not record: about 16 MiB. Only on_store_error forward can ever get there.
	maxUnrecorded = 100_000

	// retryUnrecorded is how long to leave a failing store alone.
	retryUnrecorded = time.Second
)

// ledger decides who may forward an event. What is being delivered is known in
// memory only, so that a crash leaves no claim behind; what was delivered is in
// the store.
//
// It is shared by all handlers on one store, also those of an older and a newer
// config while one takes over from the other.
type ledger struct {
	store Store
	log   func() *zap.Logger // not a logger: a ledger outlives configs

	lastError atomic.Pointer[storeError] // nil: none so far

	mu         sync.Mutex
	inFlight   map[Identity]*claim
	unrecorded map[Identity]Record // delivered, but the store refused to say so
	retrying   bool
	recording  sync.Mutex // held while an unrecorded delivery is recorded, or an event forgotten
	closed     chan struct{}
	retries    sync.WaitGroup
}

func newLedger(store Store, log func() *zap.Logger) *ledger {
	return &ledger{
		store:      store,
		log:        log,
		inFlight:   make(map[Identity]*claim),
		unrecorded: make(map[Identity]Record),
		closed:     make(chan struct{}),
	}
}

// claim is the right to deliver one event: nobody else has it at the same time.
// Its holder must end it with delivered or with release.
type claim struct {
	ledger *ledger
	id     Identity
	since  time.Time
	ended  chan struct{} // nil as long as nobody waits
	record *Record       // set before ended is closed; nil: the delivery failed
}

// earlier is a delivery that was there before.
type earlier struct {
	Record
	waited bool // for it, because another request was at it
}

// claim asks for the right to deliver an event.
//
//   - A claim and no error: deliver it.
//   - A claim and an error: nobody else is delivering it, but the store can't
//     say whether somebody has. Release it, or deliver it unprotected.
//   - A record: it was delivered before.
//   - Only an error: errInFlight after wait, or ctx's own.
func (l *ledger) claim(ctx context.Context, id Identity, wait time.Duration) (*claim, *earlier, error) {
	timer := (*time.Timer)(nil)
	for {
		c, first := l.enter(id)
		if first {
			return c.lookUp()
		}
		if timer == nil {
			timer = time.NewTimer(wait)
			defer timer.Stop()
		}
		select {
		case <-c.ended:
		case <-timer.C:
			return nil, nil, errInFlight
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
		if c.record != nil {
			return nil, &earlier{*c.record, true}, nil
		}
		// The delivery failed. Everyone who waited is here now, and the one
		// who enters first takes over.
	}
}

// enter returns the claim on an event, and whether the caller is the first to
// ask for it and so its holder.
func (l *ledger) enter(id Identity) (c *claim, first bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.inFlight[id]; c != nil {
		if c.ended == nil {
			c.ended = make(chan struct{})
		}
		return c, false
	}
	c = &claim{ledger: l, id: id, since: time.Now()}
	l.inFlight[id] = c
	return c, true
}

// lookUp returns what claim returns to the holder of c. The store is asked with
// the claim in hand: asked before, it could miss a delivery that ends between
// the question and the claim.
func (c *claim) lookUp() (*claim, *earlier, error) {
	looking := true
	defer func() {
		if looking { // Lookup panicked: leave no claim behind
			c.release()
		}
	}()
	rec, found, err := c.ledger.lookup(c.id)
	looking = false
	lookupSeconds.Observe(time.Since(c.since).Seconds())
	if !found {
		return c, nil, err
	}
	known := &earlier{Record: rec}
	c.end(&known.Record) // whoever waits learns it too, without asking the store
	return nil, known, nil
}

func (l *ledger) lookup(id Identity) (Record, bool, error) {
	l.mu.Lock()
	rec, found := l.unrecorded[id]
	notRecording := len(l.unrecorded) > 0
	l.mu.Unlock()
	if found {
		return rec, true, nil
	}
	rec, found, err := l.store.Lookup(id)
	if err != nil {
		l.failed(storeErrorsLookup, err)
	} else if !found && notRecording {
		err = errNotRecording
	}
	return rec, found, err
}

// storeError is an error of the store, for people to read.
type storeError struct {
	at  time.Time
	err error
}

func (l *ledger) failed(counter prometheus.Counter, err error) {
	counter.Inc()
	l.lastError.Store(&storeError{now(), err})
}

// load returns how many events are being delivered, and how many deliveries the
// store still refuses to record.
func (l *ledger) load() (inFlight, unrecorded int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.inFlight), len(l.unrecorded)
}

// delivered records the delivery and then ends the claim: from here on the
// event is a duplicate. An error means that the store could not record it; the
// event is a duplicate all the same, for as long as the process lives, and is
// recorded as soon as the store works again.
func (c *claim) delivered(rec Record) error {
	defer c.end(&rec)
	recorded := false
	defer func() { // deferred, should Record panic
		if !recorded {
			c.ledger.keep(c.id, rec)
		}
	}()
	start := time.Now()
	err := c.ledger.store.Record(c.id, rec)
	recordSeconds.Observe(time.Since(start).Seconds())
	if err != nil {
		c.ledger.failed(storeErrorsRecord, err)
		return err
	}
	recorded = true
	return nil
}

// release ends the claim without a delivery: the next attempt is forwarded.
func (c *claim) release() { c.end(nil) }

func (c *claim) end(rec *Record) {
	c.record = rec
	c.ledger.mu.Lock()
	defer c.ledger.mu.Unlock()
	delete(c.ledger.inFlight, c.id)
	if c.ended != nil {
		close(c.ended)
	}
}

// keep remembers a delivery that the store refused, and sees to it that the
// store is asked again.
func (l *ledger) keep(id Identity, rec Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.unrecorded) >= maxUnrecorded {
		l.log().Error("no room to remember a delivery that the store refused: the event is forwarded again when it is sent again",
			zap.Stringer("identity", id))
		return
	}
	l.unrecorded[id] = rec
	if l.retrying {
		return
	}
	select {
	case <-l.closed:
		return
	default:
	}
	l.retrying = true
	l.retries.Go(l.retry)
}

// retry runs while there are unrecorded deliveries, and no longer.
func (l *ledger) retry() {
	tick := time.NewTicker(retryUnrecorded)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-l.closed:
			return
		}
		recorded := l.recordKept()
		if recorded > 0 {
			l.log().Info("store works again: deliveries that it had refused are recorded",
				zap.Int("events", recorded))
		}
		l.mu.Lock()
		if len(l.unrecorded) == 0 {
			l.retrying = false
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
	}
}

// recordKept records the unrecorded deliveries until the store refuses one, and
// returns how many it recorded.
func (l *ledger) recordKept() (recorded int) {
	l.mu.Lock()
	kept := make(map[Identity]Record, len(l.unrecorded))
	for id, rec := range l.unrecorded {
		kept[id] = rec
	}
	l.mu.Unlock()
	for id, rec := range kept {
		if err := l.recordOne(id, rec); err != nil {
			return recorded
		}
		recorded++
	}
	return recorded
}

// recordOne records an unrecorded delivery, unless it has been forgotten by now.
func (l *ledger) recordOne(id Identity, rec Record) error {
	l.recording.Lock()
	defer l.recording.Unlock()
	l.mu.Lock()
	_, still := l.unrecorded[id]
	l.mu.Unlock()
	if !still {
		return nil
	}
	if err := l.store.Record(id, rec); err != nil {
		l.failed(storeErrorsRecord, err)
		return err
	}
	l.mu.Lock()
	delete(l.unrecorded, id)
	l.mu.Unlock()
	return nil
}

// knowledge is what is known of an event.
type knowledge struct {
	inFlight   time.Time // since when; zero: nobody is delivering it
	delivered  *Record   // nil: it was not, or is forgotten
	unrecorded bool      // delivered, as only this process knows
}

// ask returns what is known of an event. It claims nothing. The store is asked
// also about an event that is in flight: a repeat that is just being looked up
// has a claim, too.
func (l *ledger) ask(id Identity) (known knowledge, err error) {
	l.mu.Lock()
	c := l.inFlight[id]
	_, known.unrecorded = l.unrecorded[id]
	l.mu.Unlock()
	rec, found, err := l.lookup(id)
	switch {
	case found:
		known.delivered = &rec
	case c != nil:
		known.inFlight = c.since
		return known, nil
	case errors.Is(err, errNoSpace) || errors.Is(err, errNotRecording):
		return known, nil // it could not be recorded, but nobody wants to
	}
	return known, err
}

// forget makes a delivered event new again: the next attempt is forwarded. It
// returns the delivery, nil if there was none. The error errInFlight means that
// the event is being delivered just now.
func (l *ledger) forget(id Identity) (*Record, error) {
	c, err := l.enterToForget(id)
	if err != nil {
		return nil, err
	}
	defer c.release() // who comes meanwhile waits
	rec, found, err := l.lookup(id)
	if err != nil || !found {
		return nil, err
	}
	l.recording.Lock()
	defer l.recording.Unlock()
	if err := l.store.Forget(id); err != nil {
		l.failed(storeErrorsForget, err)
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
func (l *ledger) enterToForget(id Identity) (*claim, error) {
	for {
		c, first := l.enter(id)
		if first {
			return c, nil
		}
		known, err := l.ask(id)
		if err != nil {
			return nil, err
		}
		if known.delivered == nil {
			return nil, errInFlight
		}
		select {
		case <-c.ended:
		case <-time.After(repeatPatience):
			return nil, errInFlight
		}
	}
}

// close ends the ledger and its store. Nobody may hold a claim any more.
func (l *ledger) close() error {
	l.mu.Lock()
	close(l.closed)
	l.mu.Unlock()
	l.retries.Wait()
	l.recordKept()
	l.mu.Lock()
	lost := len(l.unrecorded)
	l.mu.Unlock()
	if lost > 0 {
		l.log().Error("closing a store that still refuses to record deliveries: these events are forwarded again when they are sent again",
			zap.Int("events", lost))
	}
	return l.store.Close()
}
