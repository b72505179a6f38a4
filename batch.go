package instantapi

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

var (
	errBatchesClosed = errors.New("store is closed")
	errBatchTimeout  = errors.New("store did not finish writing in time")
)

// batcher writes together what concurrent callers want written. While one batch
// is being committed the next one fills, so a slow commit (a sync of the disk)
// serves everyone who came during the one before. A lone caller waits for
// nobody.
type batcher[T any] struct {
	commit  func([]T) error // never called twice at the same time
	limit   int             // items a commit
	timeout time.Duration   // of a batch, after which its callers get an answer in any case

	mu      sync.Mutex
	filling *batch[T]
	closed  bool
	writes  sync.WaitGroup

	turn sync.Mutex // held while committing
}

type batch[T any] struct {
	items   []T
	errs    []error // nil: all committed
	ended   chan struct{}
	overdue chan struct{} // closed when the timeout has passed
	timer   *time.Timer
}

// add returns when item is committed, with nil, or when it is not.
func (b *batcher[T]) add(item T) error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return errBatchesClosed
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
	case <-mine.overdue:
		return errBatchTimeout
	}
	if mine.errs == nil {
		return nil
	}
	return mine.errs[i]
}

// begin starts a batch, which will be written when the one before is.
func (b *batcher[T]) begin() *batch[T] {
	begun := &batch[T]{ended: make(chan struct{}), overdue: make(chan struct{})}
	begun.timer = time.AfterFunc(b.timeout, func() {
		b.stopFilling(begun)
		close(begun.overdue)
	})
	b.writes.Go(func() { b.write(begun) })
	return begun
}

// write waits until the batch before is committed, then commits this one.
func (b *batcher[T]) write(full *batch[T]) {
	b.turn.Lock()
	defer b.turn.Unlock()
	b.stopFilling(full)
	full.errs = b.commitAll(full.items)
	full.timer.Stop()
	close(full.ended)
}

// stopFilling sees to it that nothing is added to the batch any more.
func (b *batcher[T]) stopFilling(full *batch[T]) {
	b.mu.Lock()
	defer b.mu.Unlock()
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
