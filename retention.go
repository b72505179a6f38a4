package instantapi

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"
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
	if d < time.Second {
		return 0, fmt.Errorf("%s is too short; give 1s or more, or forever", s)
	}
	return Retention(d), nil
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

// Interface guards
var (
	_ json.Marshaler   = Retention(0)
	_ json.Unmarshaler = (*Retention)(nil)
)
