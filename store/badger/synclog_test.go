package badger

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/store"
)

// If the log is synced by its file, that is the log that holds the batch, and
// it is synced before an event is acknowledged.
func TestTheNewestLogIsSyncedBeforeTheAnswer(t *testing.T) {
	s := testStore(t, t.TempDir(), false)
	var synced []string
	var failure error
	s.logSync = &logSync{dir: s.path, number: s.turn.log, sync: func(file *os.File) error {
		synced = append(synced, filepath.Base(file.Name()))
		return failure
	}}
	batch := make([]entry, 1000)
	turned := false
	for batches := 1; !turned; batches++ {
		before := s.turn.log
		for i := range batch {
			batch[i] = entry{randomID(), store.Record{Status: 200, DeliveredAt: time.Now()}}
		}
		if err := s.commit(batch); err != nil {
			t.Fatal(err)
		}
		turned = s.turn.log > before
		if want := logName(s.turn.log); len(synced) != batches || synced[batches-1] != want {
			t.Fatalf("batch %d: synced %v, want %s once more", batches, synced, want)
		}
	}
	before := len(synced)
	failure = errors.New("drive is gone")
	if err := s.Record(ctx, randomID(), store.Record{Status: 200}); !errors.Is(err, failure) {
		t.Errorf("recording: got %v, want %v", err, failure)
	}
	if len(synced) == before {
		t.Error("the log was not synced for a record")
	}
	failure = nil
}
