package badger

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// No caller is inside when the gate says that it is empty, and none enters
// afterwards.
func TestGateIsEmptyWhenItSaysSo(t *testing.T) {
	for range 200 {
		g := newGate()
		var inside, entered atomic.Int64
		var callers sync.WaitGroup
		for range 8 {
			callers.Go(func() {
				for g.enter() {
					inside.Add(1)
					entered.Add(1)
					inside.Add(-1)
					g.leave()
				}
			})
		}
		time.Sleep(10 * time.Microsecond)
		if !g.shut() {
			t.Fatal("it was shut before")
		}
		select {
		case <-g.empty:
		case <-time.After(10 * time.Second):
			t.Fatal("it is never empty")
		}
		before := entered.Load()
		if n := inside.Load(); n != 0 {
			t.Fatalf("%d callers are inside an empty gate", n)
		}
		callers.Wait()
		if entered.Load() != before {
			t.Fatal("somebody came in afterwards")
		}
		if g.shut() || g.enter() {
			t.Fatal("it can be shut twice, or entered afterwards")
		}
	}
}

// A lookup that the disk keeps waiting reads to its end before the files are
// unmapped.
func TestCloseWaitsForLookups(t *testing.T) {
	s := testStore(t, t.TempDir(), true)
	if !s.calls.enter() { // as a lookup does
		t.Fatal("the store is closed")
	}
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	time.Sleep(100 * time.Millisecond)
	if s.db.IsClosed() {
		t.Error("the database was closed while somebody read it")
	}
	s.calls.leave()
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if !s.db.IsClosed() {
		t.Error("the database was not closed")
	}
}
