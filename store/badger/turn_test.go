package badger

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
	"github.com/instantapi/caddy-instantapi-verify/store"
)

// A turn of the log is expected before it comes, but not long before, whatever
// the batches are like.
func TestTurnsOfTheLogAreExpected(t *testing.T) {
	for name, size := range map[string]int{"single events": 1, "batches": 500} {
		t.Run(name, func(t *testing.T) {
			s := testStore(t, t.TempDir(), false)
			for range 2 {
				expectTurn(t, s, size)
			}
		})
	}
}

// expectTurn commits batches until Badger has turned to a new log.
func expectTurn(t *testing.T, s *database, size int) {
	t.Helper()
	next := filepath.Join(s.path, logName(s.turn.log+1))
	early := 0 // batches since the turn was known to be near
	for batches := 1; ; batches++ {
		batch := make([]entry, size)
		for i := range batch {
			batch[i] = entry{randomID(), store.Record{Status: 200, DeliveredAt: time.Now(), ExpiresAt: time.Now().Add(time.Hour)}}
		}
		if s.turn.nearlyFull() {
			early++
		}
		if err := s.commit(batch); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(next); err != nil {
			continue
		}
		if early == 0 {
			t.Error("the turn came unexpected")
		}
		share := float64(early) / float64(batches)
		t.Logf("it was near for %.2f of the batches", share)
		if share > 0.2 {
			t.Error("it was near for too long")
		}
		return
	}
}

// After it, lookups are direct again.
func TestTurnsOfTheLogEnd(t *testing.T) {
	s := testStore(t, t.TempDir(), false)
	expectTurn(t, s, 1000)
	caddytest.Eventually(t, "the old log is removed and nobody expects a turn", func() bool {
		if err := s.Record(ctx, randomID(), store.Record{Status: 200}); err != nil {
			t.Fatal(err)
		}
		return !s.turn.near()
	})
}
