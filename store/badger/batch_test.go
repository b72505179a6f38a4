package badger

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Callers that come back at once are in one batch again, and a lone one is in its
// own. The rounds that see to it are counted, not timed: without them 64 callers
// make batches of 32.
func TestBatchesGatherWhoComesBack(t *testing.T) {
	for callers, want := range map[int]float64{1: 1, 64: 45} {
		var commits, items atomic.Int64
		b := &batcher[int]{limit: 1000, timeout: 10 * time.Second, commit: func(batch []int) error {
			commits.Add(1)
			items.Add(int64(len(batch)))
			time.Sleep(200 * time.Microsecond) // as a disk does
			return nil
		}}
		var wg sync.WaitGroup
		for range callers {
			wg.Go(func() {
				for item := range 200 {
					if err := b.add(ctx, item); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		b.close()
		mean := float64(items.Load()) / float64(commits.Load())
		t.Logf("%d callers: %.1f items a batch", callers, mean)
		if items.Load() != int64(200*callers) || mean < want {
			t.Errorf("%d callers: %d items in %d batches, want %.0f items a batch or more", callers, items.Load(), commits.Load(), want)
		}
	}
}

// Where all items of a batch are bad the fault is not in them: two are tried
// alone, and not the rest.
func TestFaultOfTheStoreIsNotTriedForEachItem(t *testing.T) {
	refused := errors.New("refused")
	commits := 0
	b := &batcher[int]{commit: func([]int) error { commits++; return refused }}
	for i, err := range b.commitAll(make([]int, 1000)) {
		if !errors.Is(err, refused) {
			t.Errorf("item %d: got %v", i, err)
		}
	}
	if commits != 3 {
		t.Errorf("%d commits were tried, want 3", commits)
	}
}
