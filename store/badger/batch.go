package badger

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

var errBatchesClosed = errors.New("store is closed")

// batcher writes the items of concurrent callers together. While one batch is
// being committed the next one fills, so a slow commit (a sync of the disk)
// serves all callers that came during the one before. While a commit takes too
// long no item is accepted.
type batcher[T any] struct {
	commit  func([]T) error // called for one batch after the other, in the order in which they began
	limit   int             // items per batch
	timeout time.Duration   // after which the callers of a batch get an answer in any case
	yield   func()          // lets other goroutines run, see yielder

	mu      sync.Mutex
	waiting []*batch[T] // for the writer, in order; the last one takes items until it is full
	writing bool        // the writer is running
	closed  bool
	company bool // the latest batch had more than one item
	writes  sync.WaitGroup
	late    atomic.Int32 // batches whose callers got errHanging, and that are not written yet
}

type batch[T any] struct {
	items    []T
	overdue  *time.Timer
	answered bool
	late     bool          // its callers got errHanging
	answers  []error       // one per item; nil: all committed
	ended    chan struct{} // closed when there are answers
}

// hanging reports whether a commit takes too long.
func (b *batcher[T]) hanging() bool { return b.late.Load() > 0 }

// add returns nil once item is committed, or the error of committing it. It
// returns errHanging if that takes too long, and the error of ctx when that
// ends; the item may be committed later all the same.
func (b *batcher[T]) add(ctx context.Context, item T) error {
	b.mu.Lock()
	if b.closed || b.hanging() {
		defer b.mu.Unlock()
		if b.closed {
			return errBatchesClosed
		}
		return errHanging
	}
	mine := b.filling()
	i := len(mine.items)
	mine.items = append(mine.items, item)
	b.mu.Unlock()

	select {
	case <-mine.ended:
	case <-ctx.Done():
		return ctx.Err()
	}
	if mine.answers == nil {
		return nil
	}
	return mine.answers[i]
}

// filling returns the batch that takes items, and starts the writer if it is
// not running.
func (b *batcher[T]) filling() *batch[T] {
	if n := len(b.waiting); n > 0 && len(b.waiting[n-1].items) < b.limit {
		return b.waiting[n-1]
	}
	begun := &batch[T]{ended: make(chan struct{})}
	begun.overdue = time.AfterFunc(b.timeout, func() { b.giveUp(begun) })
	b.waiting = append(b.waiting, begun)
	if !b.writing {
		b.writing = true
		b.writes.Go(b.write)
	}
	return begun
}

// write is the writer. It commits batches until there are none left.
func (b *batcher[T]) write() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.waiting) > 0 {
		b.gather()
		next := b.waiting[0]
		b.waiting = slices.Delete(b.waiting, 0, 1)
		var answers []error
		b.unlocked(func() { answers = b.commitAll(next.items) })
		next.overdue.Stop()
		if next.late {
			b.late.Add(-1)
		}
		next.answer(answers)
	}
	b.writing = false
}

// gatherRounds is how often at most the writer yields before it commits a
// batch.
const gatherRounds = 8

// gather lets other goroutines run while the next batch grows, because some of
// them are about to add items: on one processor that makes the batches several
// times larger. A lone item after a lone item waits only for goroutines that
// can run already, because polling the network takes longer.
func (b *batcher[T]) gather() {
	next := b.waiting[0]
	defer func() { b.company = len(next.items) > 1 }()
	if !b.company && len(next.items) == 1 {
		b.unlocked(runtime.Gosched)
		if len(next.items) == 1 {
			return
		}
	}
	for range gatherRounds {
		size := len(next.items)
		b.unlocked(b.yield)
		if len(next.items) == size {
			return
		}
	}
}

func (b *batcher[T]) unlocked(do func()) {
	b.mu.Unlock()
	defer b.mu.Lock()
	do()
}

// giveUp answers the callers of a batch that is not written in time. The batch
// may be written later all the same.
func (b *batcher[T]) giveUp(overdue *batch[T]) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if overdue.answered {
		return
	}
	overdue.late = true
	b.late.Add(1)
	overdue.answer(slices.Repeat([]error{errHanging}, len(overdue.items)))
}

// answer answers the callers, unless they have been answered.
func (b *batch[T]) answer(answers []error) {
	if b.answered {
		return
	}
	b.answered = true
	b.answers = answers
	close(b.ended)
}

// commitAll commits the items together. If that fails it tries each alone, so
// that one bad item does not fail the others; a second failure means that the
// fault is not in the items, and is the answer for all that follow.
func (b *batcher[T]) commitAll(items []T) (errs []error) {
	err := b.tryCommit(items)
	if err == nil {
		return nil
	}
	errs = make([]error, len(items))
	if len(items) == 1 {
		errs[0] = err
		return errs
	}
	failed := 0
	for i := range items {
		if failed < 2 {
			err = b.tryCommit(items[i : i+1])
		}
		errs[i] = err
		if err != nil {
			failed++
		}
	}
	return errs
}

// tryCommit turns a panic into an error: in this goroutine it would end the
// process.
func (b *batcher[T]) tryCommit(items []T) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("writing to the store panicked: %v", p)
		}
	}()
	return b.commit(items)
}

// close refuses new items and returns when all earlier ones are committed.
func (b *batcher[T]) close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.writes.Wait()
}
