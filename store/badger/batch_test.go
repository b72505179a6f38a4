package badger

import (
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Callers that come back at once share a batch again, and a lone one has its
// own. Without the rounds that let others run, 64 callers make batches of 32.
func TestBatchesGatherWhoComesBack(t *testing.T) {
	for callers, want := range map[int]float64{1: 1, 64: 45} {
		var commits, items atomic.Int64
		b := &batcher[int]{yield: runtime.Gosched, limit: 1000, timeout: 10 * time.Second, commit: func(batch []int) error {
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

// On a single processor, which a commit blocks, callers that come by the
// network share a batch all the same: before the next commit the runtime polls
// the network for what has arrived meanwhile.
func TestBatchesGatherOnOneProcessor(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	const callers, each = 16, 200
	commits := 0
	b := &batcher[int]{yield: testYielder(t).yield, limit: 1000, timeout: 10 * time.Second, commit: func([]int) error {
		commits++
		for start := time.Now(); time.Since(start) < 100*time.Microsecond; { // as a sync that is too short for the runtime to notice
		}
		return nil
	}}
	var wg sync.WaitGroup
	for range callers {
		client, server := connection(t)
		wg.Go(func() { // sends a byte for each answer
			var one [1]byte
			for range each {
				if _, err := client.Write(one[:]); err != nil {
					t.Error(err)
				}
				if _, err := client.Read(one[:]); err != nil {
					t.Error(err)
				}
			}
		})
		wg.Go(func() {
			var one [1]byte
			for range each {
				if _, err := server.Read(one[:]); err != nil {
					t.Error(err)
				}
				if err := b.add(ctx, 0); err != nil {
					t.Error(err)
				}
				if _, err := server.Write(one[:]); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	b.close()
	mean := float64(callers*each) / float64(commits)
	t.Logf("%.1f items a batch", mean)
	if mean < callers*3/4 {
		t.Errorf("%.1f items a batch of %d callers", mean, callers)
	}
}

// If all items of a batch fail the fault is not in them: two are tried alone,
// and the rest are not.
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
