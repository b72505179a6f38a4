package ledger

import (
	"time"

	"github.com/instantapi/caddy-instantapi-verify/store"
	"go.uber.org/zap"
)

const (
	// maxUnrecorded bounds the deliveries kept in memory while the store does
	// not record, to about 16 MiB. Only on_store_error forward can reach it.
	maxUnrecorded = 100_000

	// retryUnrecorded is the pause before a failing store is tried again.
	retryUnrecorded = time.Second
)

// keep remembers a delivery that the store did not record, and makes sure that
// recording it is tried again.
func (l *Ledger) keep(id store.Identity, rec store.Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.unrecorded) >= maxUnrecorded {
		l.log().Error("no room to remember a delivery that the store did not record; the event is forwarded again when it is sent again",
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

// retry runs while there are unrecorded deliveries.
func (l *Ledger) retry() {
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
			l.log().Info("store works again; deliveries that it had refused are recorded",
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
func (l *Ledger) recordKept() (recorded int) {
	l.mu.Lock()
	kept := make(map[store.Identity]store.Record, len(l.unrecorded))
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
func (l *Ledger) recordOne(id store.Identity, rec store.Record) error {
	l.recording.Lock()
	defer l.recording.Unlock()
	l.mu.Lock()
	_, still := l.unrecorded[id]
	l.mu.Unlock()
	if !still {
		return nil
	}
	if err := l.record(id, rec); err != nil {
		return err
	}
	l.mu.Lock()
	delete(l.unrecorded, id)
	l.mu.Unlock()
	return nil
}
