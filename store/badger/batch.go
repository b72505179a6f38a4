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

// batcher writes together what concurrent callers want written. While one batch
// is being committed the next one fills, so a slow commit (a sync of the disk)
// serves everyone who came during the one before. A lone caller waits for
// nobody. While a commit takes too long nothing is accepted.
type batcher[T any] struct {
	commit  func([]T) error // called for one batch after the other, in the order of their beginnings
	limit   int             // items a commit
	timeout time.Duration   // of a batch, after which its callers get an answer in any case

	mu      sync.Mutex
	filling *batch[T]
	latest  chan struct{} // closed when the latest batch is written
	closed  bool
	company bool // the last batch had more than one item
	writes  sync.WaitGroup
	late    atomic.Int32 // batches whose callers were given up, and that are not written yet
}

type batch[T any] struct {
	items    []T
	before   chan struct{} // closed when the batch before is written
	written  chan struct{} // closed when this one is
	answered bool
	late     bool          // its callers were given up
	answers  []error       // one an item; nil: all committed
	ended    chan struct{} // closed when there are answers
}

// hanging reports whether a commit takes too long.
func (b *batcher[T]) hanging() bool { return b.late.Load() > 0 }

// add returns when item is committed, with nil, or when it is not. It returns
// errHanging if that takes too long, and is never longer than ctx; the item may be
// committed later all the same.
func (b *batcher[T]) add(ctx context.Context, item T) error {
	b.mu.Lock()
	if b.closed || b.hanging() {
		defer b.mu.Unlock()
		if b.closed {
			return errBatchesClosed
		}
		return errHanging
	}
	if b.filling == nil {
		b.filling = b.begin()
	}
	mine, i := b.filling, len(b.filling.items)
	mine.items = append(mine.items, item)
	if len(mine.items) == b.limit {
		b.filling = nil
	}
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

// begin starts a batch, which will be written when the one before is.
func (b *batcher[T]) begin() *batch[T] {
	begun := &batch[T]{ended: make(chan struct{}), before: b.latest, written: make(chan struct{})}
	if b.latest == nil { // it is the first
		begun.before = make(chan struct{})
		close(begun.before)
	}
	b.latest = begun.written
	b.writes.Go(func() { b.write(begun) })
	return begun
}

// write commits a batch.
func (b *batcher[T]) write(full *batch[T]) {
	overdue := time.AfterFunc(b.timeout, func() { b.giveUp(full) })
	defer overdue.Stop()
	defer close(full.written)
	<-full.before
	b.gather(full)
	answers := b.commitAll(full.items)
	b.mu.Lock()
	defer b.mu.Unlock()
	if full.late {
		b.late.Add(-1)
	}
	full.answer(answers)
}

// gather closes the batch, but first lets who can run run: some of them have
// something for it. With sync on this raised the guard's requests/s from 0.65 of
// a plain reverse_proxy's to 0.77, with sync off from 0.81 to 0.93. Going on for
// as long as the batch grows makes larger ones, and the store's own benchmark a
// tenth faster, but the guard 0.72 where this gives 0.76. A lone item does
// without: the runtime wakes a processor for each round.
func (b *batcher[T]) gather(full *batch[T]) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.company || len(full.items) > 1 {
		b.mu.Unlock()
		runtime.Gosched()
		runtime.Gosched()
		b.mu.Lock()
	}
	b.company = len(full.items) > 1
	b.stopFilling(full)
}

// giveUp answers the callers of a batch that is not written in time. It may be
// written later all the same.
func (b *batcher[T]) giveUp(full *batch[T]) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if full.answered {
		return
	}
	b.stopFilling(full)
	full.late = true
	b.late.Add(1)
	full.answer(slices.Repeat([]error{errHanging}, len(full.items)))
}

// answer answers the callers, unless they have an answer.
func (b *batch[T]) answer(answers []error) {
	if b.answered {
		return
	}
	b.answered = true
	b.answers = answers
	close(b.ended)
}

// stopFilling sees to it that nothing is added to the batch any more.
func (b *batcher[T]) stopFilling(full *batch[T]) {
	if b.filling == full {
		b.filling = nil
	}
}

// commitAll commits the items together. Where that fails each is tried alone,
// so that one bad item does not fail the others; a second failure means that
// the fault is not in the items, and is everyone's answer.
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

// tryCommit turns a panic into an error: it would end the process, because no
// request's own goroutine is here to catch it.
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
