package badger

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Whatever a commit does, every caller that waits for it gets an answer in
// time, and later callers are served.
func TestEveryWriterGetsAnAnswer(t *testing.T) {
	refused := errors.New("refused")
	const bad = 7
	stuck := make(chan struct{})
	for name, test := range map[string]struct {
		commit func([]int) error
		want   func(item int, err error) bool
	}{
		"fails": {func([]int) error { return refused },
			func(_ int, err error) bool { return errors.Is(err, refused) }},
		"panics": {func([]int) error { panic("out of order") },
			func(_ int, err error) bool { return err != nil && strings.Contains(err.Error(), "out of order") }},
		"hangs": {func([]int) error { <-stuck; return nil },
			func(_ int, err error) bool { return errors.Is(err, errHanging) }},
		"has a bad item": {func(items []int) error {
			for _, item := range items {
				if item == bad {
					return refused
				}
			}
			return nil
		}, func(item int, err error) bool {
			return errors.Is(err, refused) == (item == bad) && (item == bad || err == nil)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			var broken atomic.Bool
			broken.Store(true)
			b := &batcher[int]{yield: runtime.Gosched, limit: 10, timeout: 300 * time.Millisecond, commit: func(items []int) error {
				if broken.Load() {
					return test.commit(items)
				}
				return nil
			}}
			var wg sync.WaitGroup
			begun := time.Now()
			for item := range 100 {
				wg.Go(func() {
					if err := b.add(ctx, item); !test.want(item, err) {
						t.Errorf("item %d: got %v", item, err)
					}
				})
			}
			wg.Wait()
			if took := time.Since(begun); took > 5*time.Second {
				t.Errorf("the answers took %s", took)
			}
			broken.Store(false)
			if name == "hangs" {
				close(stuck)
			}
			for b.hanging() {
				time.Sleep(time.Millisecond)
			}
			if err := b.add(ctx, bad); err != nil {
				t.Errorf("after the fault: %v", err)
			}
			b.close()
			if err := b.add(ctx, bad); !errors.Is(err, errBatchesClosed) {
				t.Errorf("after close: got %v, want errBatchesClosed", err)
			}
		})
	}
}

// An item that its caller gave up on is written before later ones: a late
// record must not undo that its event has been forgotten since.
func TestWritersAreServedInOrder(t *testing.T) {
	hang, committing := make(chan struct{}), make(chan struct{}, 200)
	var committed []int
	b := &batcher[int]{yield: runtime.Gosched, limit: 1, timeout: time.Second, commit: func(items []int) error {
		committing <- struct{}{}
		<-hang
		committed = append(committed, items...)
		return nil
	}}
	waiting := func() int {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.waiting)
	}
	var wg sync.WaitGroup
	for item := range 200 {
		wg.Go(func() {
			if err := b.add(ctx, item); !errors.Is(err, errHanging) {
				t.Errorf("got %v, want errHanging", err)
			}
		})
		if item == 0 {
			<-committing
		}
		for waiting() < item { // until it is accepted
			time.Sleep(10 * time.Microsecond)
		}
	}
	wg.Wait()
	close(hang)
	b.close()
	if len(committed) != 200 || !slices.IsSorted(committed) {
		t.Errorf("committed in the order %v", committed)
	}
}

// While a commit takes too long nothing is accepted, so nothing piles up, and
// no caller waits.
func TestWritersAreRefusedWhileACommitHangs(t *testing.T) {
	hang := make(chan struct{})
	var commits atomic.Int32
	b := &batcher[int]{yield: runtime.Gosched, limit: 10, timeout: 50 * time.Millisecond, commit: func([]int) error {
		commits.Add(1)
		<-hang
		return nil
	}}
	if err := b.add(ctx, 1); !errors.Is(err, errHanging) {
		t.Fatalf("got %v, want errHanging", err)
	}
	start := time.Now()
	for range 1000 {
		if err := b.add(ctx, 2); !errors.Is(err, errHanging) {
			t.Fatalf("got %v, want errHanging", err)
		}
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("refusing 1000 took %v", took)
	}
	close(hang)
	for b.hanging() {
		time.Sleep(time.Millisecond)
	}
	if err := b.add(ctx, 3); err != nil {
		t.Errorf("after the fault: %v", err)
	}
	if n := commits.Load(); n != 2 {
		t.Errorf("%d batches were committed, want 2", n)
	}
}

// No caller waits longer than its context lasts.
func TestWritersLeaveWithTheirContexts(t *testing.T) {
	hang := make(chan struct{})
	defer close(hang)
	b := &batcher[int]{yield: runtime.Gosched, limit: 10, timeout: time.Minute, commit: func([]int) error { <-hang; return nil }}
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	if err := b.add(short, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want DeadlineExceeded", err)
	}
}

// close waits for what has been accepted, and no caller is left without an
// answer.
func TestCloseAnswersEveryWriter(t *testing.T) {
	var committed atomic.Int64
	b := &batcher[int]{yield: runtime.Gosched, limit: 10, timeout: 5 * time.Second, commit: func(items []int) error {
		time.Sleep(time.Millisecond)
		committed.Add(int64(len(items)))
		return nil
	}}
	var accepted, refused atomic.Int64
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			for item := range 100 {
				switch err := b.add(ctx, item); {
				case err == nil:
					accepted.Add(1)
				case errors.Is(err, errBatchesClosed):
					refused.Add(1)
				default:
					t.Error(err)
				}
			}
		})
	}
	time.Sleep(20 * time.Millisecond)
	b.close()
	after := committed.Load()
	wg.Wait()
	if committed.Load() != after {
		t.Error("something was committed after close")
	}
	if accepted.Load() != after || accepted.Load()+refused.Load() != 5000 || refused.Load() == 0 {
		t.Errorf("%d were committed, %d accepted, %d refused", after, accepted.Load(), refused.Load())
	}
}
