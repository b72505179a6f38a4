package badger

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"runtime/debug"
	"strings"
	"time"

	badgerdb "github.com/dgraph-io/badger/v4"
	"github.com/instantapi/caddy-instantapi-verify/store"
)

// Lookup implements [store.Store].
func (s *database) Lookup(ctx context.Context, id store.Identity) (store.Record, bool, error) {
	dead := s.pulse.check(ctx)
	if dead != nil && !s.residence.check(ctx, s.tables) {
		return store.Record{}, false, fmt.Errorf("looking up an event: %w", dead)
	}
	rec, found, err := s.find(ctx, id)
	switch {
	case found || err != nil:
		return rec, found, err
	case dead != nil:
		return store.Record{}, false, fmt.Errorf("%w: %w", store.ErrCannotRecord, dead)
	case s.writer.hanging():
		return store.Record{}, false, fmt.Errorf("%w: %w", store.ErrCannotRecord, errHanging)
	}
	return store.Record{}, false, s.space.checkNowAndThen(ctx)
}

// tables returns the number of tables. Unlike Badger's list of them it reads
// none of them.
func (s *database) tables() (tables int) {
	for _, level := range s.db.Levels() {
		tables += level.NumTables
	}
	return tables
}

// find looks an event up. That takes microseconds in the caller's own
// goroutine, unless Badger may be blocking all lookups while it waits for the
// disk.
func (s *database) find(ctx context.Context, id store.Identity) (store.Record, bool, error) {
	if !s.turn.near() {
		return s.get(id)
	}
	type outcome struct {
		rec   store.Record
		found bool
	}
	got, err := doLimited(ctx, &s.lookups, patience, func() (got outcome, err error) {
		got.rec, got.found, err = s.get(id)
		return got, err
	})
	if errors.Is(err, errHanging) {
		err = fmt.Errorf("looking up an event: %w", err)
	}
	return got.rec, got.found, err
}

func (s *database) get(id store.Identity) (rec store.Record, found bool, err error) {
	if !s.calls.enter() {
		return rec, false, errClosed
	}
	defer s.calls.leave()
	// Reading a page of a table that can't be read any more is a fault that
	// would end the process, and a damaged table can make Badger panic.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			found, err = false, fmt.Errorf("looking up an event: reading a table panicked: %v", p)
		}
	}()
	// A read at the highest version sees whatever is committed.
	txn := s.db.NewTransactionAt(math.MaxUint64, false)
	defer txn.Discard()
	item, err := txn.Get(id[:])
	if errors.Is(err, badgerdb.ErrKeyNotFound) {
		return rec, false, nil
	}
	if err != nil {
		return rec, false, fmt.Errorf("looking up an event: %w", err)
	}
	err = item.Value(func(value []byte) error {
		rec, err = decodeRecord(value)
		return err
	})
	if at := item.ExpiresAt(); at != 0 {
		rec.ExpiresAt = time.Unix(int64(at), 0)
	}
	return rec, err == nil, err
}

// Record implements [store.Store].
func (s *database) Record(ctx context.Context, id store.Identity, rec store.Record) error {
	return s.writer.add(ctx, entry{id, rec})
}

// Forget implements [store.Store]. It records the event as an expired one, so
// that its entry in the log looks like any other event's, see damage.go.
func (s *database) Forget(ctx context.Context, id store.Identity) error {
	return s.Record(ctx, id, store.Record{ExpiresAt: time.Unix(1, 0)})
}

// commit writes the entries in one transaction, with one sync.
func (s *database) commit(entries []entry) error {
	if err := s.pulse.check(context.Background()); err != nil {
		return err
	}
	if err := s.space.check(); err != nil {
		return err
	}
	if err := s.readyToTurn(); err != nil {
		return err
	}
	version := s.version + 1
	txn := s.db.NewTransactionAt(version, true)
	defer txn.Discard()
	written := make([]badgerdb.Entry, len(entries))
	values := make([]byte, 0, len(entries)*recordSize)
	for i := range entries {
		start := len(values)
		values = appendRecord(values, entries[i].rec)
		written[i] = badgerdb.Entry{Key: entries[i].id[:], Value: values[start:]}
		if at := entries[i].rec.ExpiresAt; !at.IsZero() {
			written[i].ExpiresAt = uint64(at.Unix())
		}
		if err := txn.SetEntry(&written[i]); err != nil {
			return fmt.Errorf("recording %d events: %w", len(entries), err)
		}
	}
	s.turn.expect(len(entries), version)
	defer s.turn.look()
	if err := txn.CommitAt(version, nil); err != nil {
		// The next commit uses the same version. If half of this one were in
		// the log, replaying the log would end at an entry of another version.
		s.noLog = s.noLog || strings.Contains(err.Error(), "cannot create new mem table")
		return fmt.Errorf("recording %d events: %w", len(entries), err)
	}
	if s.logSync != nil {
		if err := s.logSync.newest(); err != nil {
			return fmt.Errorf("syncing %d events: %w", len(entries), err)
		}
	}
	s.version = version
	batchEvents.Observe(float64(len(entries)))
	if s.undiscarded += len(entries); s.undiscarded >= discardInterval {
		s.undiscarded = 0
		s.allowDiscarding()
	}
	return nil
}

// now is the clock that says when to check the free space again.
var now = time.Now

// recordFormat is the first byte of a value: 1 byte format, 2 bytes status, 5
// bytes seconds since 1970, 8 bytes hash of the body. The time of expiry is an
// attribute of Badger's entry.
const (
	recordFormat = 1
	recordSize   = 16
)

func appendRecord(values []byte, rec store.Record) []byte {
	start := len(values)
	values = binary.BigEndian.AppendUint64(values, uint64(rec.DeliveredAt.Unix()))
	values[start] = recordFormat
	binary.BigEndian.PutUint16(values[start+1:], uint16(rec.Status))
	return binary.BigEndian.AppendUint64(values, rec.BodyHash)
}

func decodeRecord(value []byte) (store.Record, error) {
	if len(value) != recordSize || value[0] != recordFormat {
		return store.Record{}, errors.New("record has an unknown format: it was written by another version of this module")
	}
	var seconds [8]byte
	copy(seconds[3:], value[3:8])
	return store.Record{
		DeliveredAt: time.Unix(int64(binary.BigEndian.Uint64(seconds[:])), 0),
		Status:      int(binary.BigEndian.Uint16(value[1:])),
		BodyHash:    binary.BigEndian.Uint64(value[8:]),
	}, nil
}

// Interface guard
var _ store.Store = (*database)(nil)
