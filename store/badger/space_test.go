package badger

import (
	"errors"
	"math"
	"sync/atomic"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/store"
)

// On a full disk no event is accepted that can't be recorded, and known events
// stay known.
func TestFullDiskRefusesOnlyNewEvents(t *testing.T) {
	var free atomic.Uint64
	free.Store(lowestMinFreeSpace)
	s, err := openBadger(ctx, t.TempDir(), true, lowestMinFreeSpace, func(string) (uint64, error) { return free.Load(), nil })
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	known := randomID()
	if err := s.Record(ctx, known, store.Record{Status: 200}); err != nil {
		t.Fatal(err)
	}
	wantKnown := func() {
		t.Helper()
		if _, found, err := s.Lookup(ctx, known); !found || err != nil {
			t.Errorf("known event: got %v %v", found, err)
		}
	}
	free.Store(lowestMinFreeSpace - 1)
	time.Sleep(2 * lookInterval)
	if _, found, err := s.Lookup(ctx, randomID()); found || !errors.Is(err, errNoSpace) {
		t.Errorf("unknown event: got %v %v, want errNoSpace", found, err)
	}
	refused := randomID()
	if err := s.Record(ctx, refused, store.Record{Status: 200}); !errors.Is(err, errNoSpace) {
		t.Errorf("recording: got %v, want errNoSpace", err)
	}
	wantKnown()

	free.Store(lowestMinFreeSpace)
	time.Sleep(2 * lookInterval)
	if _, found, err := s.Lookup(ctx, refused); found || err != nil {
		t.Errorf("after making room: got %v %v for an event that was refused", found, err)
	}
	if err := s.Record(ctx, refused, store.Record{Status: 200}); err != nil {
		t.Errorf("after making room: %v", err)
	}
	wantFound(t, s, []store.Identity{known, refused})
}

// Free space that can't be read counts as none.
func TestUnreadableFreeSpaceRefusesNewEvents(t *testing.T) {
	var failure atomic.Pointer[error]
	s, err := openBadger(ctx, t.TempDir(), true, lowestMinFreeSpace, func(string) (uint64, error) {
		if err := failure.Load(); err != nil {
			return 0, *err
		}
		return 1 << 40, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	gone := errors.New("device is gone")
	failure.Store(&gone)
	defer failure.Store(nil) // before it is closed
	time.Sleep(2 * lookInterval)
	if _, _, err := s.Lookup(ctx, randomID()); !errors.Is(err, gone) {
		t.Errorf("looking up: got %v", err)
	}
	if err := s.Record(ctx, randomID(), store.Record{}); !errors.Is(err, gone) {
		t.Errorf("recording: got %v", err)
	}
}

// The free space is what statvfs(3) says it is.
func TestFreeSpaceIsCountedInFragments(t *testing.T) {
	for _, test := range []struct {
		blocks int64
		size   uint64
		want   uint64
	}{
		{0, 4096, 0},
		{3, 4096, 12288},
		{-1, 4096, 0},
		{math.MinInt64, 1, 0},
		{1 << 40, 1 << 20, 1 << 60},
		{math.MaxInt64, 4096, math.MaxUint64},
	} {
		if got := blockBytes(test.blocks, test.size); got != test.want {
			t.Errorf("%d blocks of %d bytes are %d bytes, want %d", test.blocks, test.size, got, test.want)
		}
	}
}
