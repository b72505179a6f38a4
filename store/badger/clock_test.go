package badger

import (
	"errors"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/store"
)

// A clock that jumps makes events expire earlier or later by as much as it
// jumped, and breaks nothing. In a bubble of synctest it is the year 2000, also
// for Badger; each change between bubble and real time is a jump of decades.
func TestClockStepsBreakNothing(t *testing.T) {
	dir := t.TempDir()
	const retention = time.Minute
	early, late, back := randomID(), randomID(), randomID()
	record := func(s *database, id store.Identity) {
		t.Helper()
		if err := s.Record(ctx, id, store.Record{DeliveredAt: now(), Status: 200, ExpiresAt: now().Add(retention)}); err != nil {
			t.Error(err)
		}
	}
	wantKnown := func(s *database, id store.Identity, want bool) {
		t.Helper()
		if _, found, err := s.Lookup(ctx, id); found != want || err != nil {
			t.Errorf("at %s: got %v %v, want %v", now(), found, err, want)
		}
	}
	open := func(t *testing.T, use func(s *database)) {
		s := testStore(t, dir, true)
		use(s)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		open(t, func(s *database) {
			record(s, early)
			wantKnown(s, early, true)
			time.Sleep(2 * retention)
			wantKnown(s, early, false)
			record(s, early)
			wantKnown(s, early, true)
		})
	})
	open(t, func(s *database) { // decades forth
		wantKnown(s, early, false)
		record(s, late)
		wantKnown(s, late, true)
	})
	synctest.Test(t, func(t *testing.T) { // and back
		open(t, func(s *database) {
			wantKnown(s, late, true)
			time.Sleep(2 * retention)
			wantKnown(s, late, true)
			record(s, back)
			wantKnown(s, back, true)
		})
	})
	open(t, func(s *database) {
		wantKnown(s, late, true)
		wantKnown(s, back, false)
		// The free space is read again even if the last reading lies in the
		// future.
		s.space.lastLook.Store(now().Add(time.Hour).UnixNano())
		s.space.min = math.MaxUint64
		if _, _, err := s.Lookup(ctx, randomID()); !errors.Is(err, errNoSpace) {
			t.Errorf("got %v, want errNoSpace", err)
		}
	})
}
