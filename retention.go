package instantapi

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/instantapi/caddy-instantapi-verify/store"
)

// Retention is how long a delivered event is remembered. In JSON it is a number
// of nanoseconds, a [duration](https://caddyserver.com/docs/conventions#durations)
// like `720h` or `30d`, or `forever`.
type Retention time.Duration

// Forever is the Retention of events that are never forgotten.
const Forever Retention = -1

// ParseRetention reads a duration or "forever".
func ParseRetention(s string) (Retention, error) {
	if s == "forever" {
		return Forever, nil
	}
	d, err := caddy.ParseDuration(s)
	if err != nil {
		return 0, err
	}
	if err := checkRetention(d, s); err != nil {
		return 0, err
	}
	return Retention(d), nil
}

// checkRetention refuses what is shorter than the second to which a record's
// expiry is kept. The error has the configuration's spelling.
func checkRetention(d time.Duration, spelling string) error {
	if d < time.Second {
		return fmt.Errorf("%s is too short; give 1s or more, or forever", spelling)
	}
	return nil
}

// UnmarshalJSON implements json.Unmarshaler.
func (d *Retention) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err == nil {
		*d, err = ParseRetention(s)
		return err
	}
	return json.Unmarshal(b, (*int64)(d))
}

// MarshalJSON implements json.Marshaler.
func (d Retention) MarshalJSON() ([]byte, error) {
	if d == Forever {
		return []byte(`"forever"`), nil
	}
	return json.Marshal(int64(d))
}

// now is the clock that retention follows. Setting it forward makes events
// expire early by as much, setting it back makes them expire late. Events that
// expired while the clock was ahead are lost once their disk space has been
// reclaimed.
var now = time.Now

// newRecord returns the record of a delivery now. Retention decides when it
// expires, and the store sees to it: from then on [store.Store] does not find it.
func (h *Handler) newRecord(bodyHash uint64, status int) store.Record {
	rec := store.Record{DeliveredAt: now(), Status: status, BodyHash: bodyHash}
	if h.Retention != Forever {
		// This rounds up, because a record expires at the beginning of a
		// second.
		rec.ExpiresAt = rec.DeliveredAt.Add(time.Duration(h.Retention) + time.Second - 1).Truncate(time.Second)
	}
	return rec
}

// Interface guards
var (
	_ json.Marshaler   = Retention(0)
	_ json.Unmarshaler = (*Retention)(nil)
)
