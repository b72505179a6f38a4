package badger

import (
	"fmt"
	"testing"
	"time"
)

// The count is exact wherever Badger keeps the events at the moment.
func TestEventsAreCountedExactly(t *testing.T) {
	dir := t.TempDir()
	s := testStore(t, dir, false)
	want := int64(0)
	count := func(when string) {
		t.Helper()
		if got := s.countEvents(); got != want {
			t.Errorf("%s: %d events, want %d", when, got, want)
		}
	}
	count("empty")
	for i := range 5 {
		fillStore(t, s, 1000, time.Time{})
		want += 1000
		count(fmt.Sprint("in the log ", i))
	}
	// more than a memtable holds, counted while it is written to tables
	for range 4 {
		fillStore(t, s, 30_000, time.Time{})
		want += 30_000
		count("on the way to tables")
	}
	if err := s.coverAllKeys(); err != nil {
		t.Fatal(err)
	}
	count("covered")
	fillStore(t, s, 1000, time.Now().Add(-time.Hour))
	count("expired ones")
	forgotten := fillStore(t, s, 1, time.Time{})[0]
	want++
	count("one more")
	if err := s.Forget(ctx, forgotten); err != nil {
		t.Fatal(err)
	}
	want--
	count("forgotten")
	if len(s.db.Tables()) < 2 {
		t.Error("nothing has been written to a table")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = testStore(t, dir, false)
	// Expired events count once they are in a table, and so do forgotten ones:
	// one that the test forgot, and one from covering the tables.
	if got := s.countEvents(); got < want || got > want+1003 {
		t.Errorf("opened again: %d events, want %d, and at most 1003 more", got, want)
	}
	stats, err := s.Statistics(ctx)
	if err != nil || stats.Bytes < 32*want || stats.FreeBytes <= 0 || stats.MinFreeBytes != lowestMinFreeSpace {
		t.Errorf("got %+v %v", stats, err)
	}
}

// BenchmarkCountEvents measures a scrape while as many events as possible are
// not in a table yet.
func BenchmarkCountEvents(b *testing.B) {
	s := testStore(b, b.TempDir(), false)
	for len(s.db.Tables()) == 0 {
		fillStore(b, s, 5000, time.Time{})
	}
	fillStore(b, s, 20_000, time.Time{})
	for b.Loop() {
		s.countEvents()
	}
	b.ReportMetric(float64(s.countEvents()), "events")
}
