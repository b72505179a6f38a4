package ledger

import (
	"context"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/store"
)

// Claim is the right to deliver one event: nobody else has it at the same time.
// Its holder must end it with Delivered or Release.
type Claim struct {
	ledger *Ledger
	id     store.Identity
	since  time.Time
	ended  chan struct{} // nil while nobody waits
	record *store.Record // set before ended is closed; nil: the delivery failed
}

// ID returns the identity of the event.
func (c *Claim) ID() store.Identity { return c.id }

// lookUp returns what [Ledger.Claim] returns to the holder of c. It asks the
// store while the claim is held: an earlier answer could miss a delivery that
// ends between the question and the claim.
func (c *Claim) lookUp(ctx context.Context) (*Claim, *Earlier, error) {
	looking := true
	defer func() {
		if looking { // Lookup panicked: leave no claim behind
			c.Release()
		}
	}()
	rec, found, err := c.ledger.lookup(ctx, c.id)
	looking = false
	c.ledger.metrics.LookupSeconds.Observe(time.Since(c.since).Seconds())
	if !found {
		return c, nil, err
	}
	known := &Earlier{Record: rec}
	c.end(&known.Record) // those who wait learn it too, without asking the store
	return nil, known, nil
}

// Delivered records the delivery and then ends the claim: from then on a repeat
// is a duplicate. An error means that the store could not record the delivery.
// A repeat is a duplicate all the same while the process lives, and the
// delivery is recorded as soon as the store works again.
func (c *Claim) Delivered(rec store.Record) error {
	defer c.end(&rec)
	recorded := false
	defer func() { // deferred, in case Record panics
		if !recorded {
			c.ledger.keep(c.id, rec)
		}
	}()
	start := time.Now()
	err := c.ledger.record(c.id, rec)
	c.ledger.metrics.RecordSeconds.Observe(time.Since(start).Seconds())
	recorded = err == nil
	return err
}

// Release ends the claim without a delivery: the next attempt is forwarded.
func (c *Claim) Release() { c.end(nil) }

func (c *Claim) end(rec *store.Record) {
	c.record = rec
	c.ledger.mu.Lock()
	defer c.ledger.mu.Unlock()
	delete(c.ledger.inFlight, c.id)
	if c.ended != nil {
		close(c.ended)
	}
}
