package badger

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// patience is how long a call waits for the disk; for recording see
// recordTimeout. It is shorter than the 10 seconds that Prometheus waits.
const patience = 5 * time.Second

// errHanging means that the disk does not answer.
var errHanging = errors.New("the disk or its file system does not answer")

// shared makes one call that may hang for all callers that want its result at
// the same time. While it hangs, further callers are refused at once.
type shared[T any] struct {
	mu      sync.Mutex
	running *sharedCall[T] // nil: none
}

type sharedCall[T any] struct {
	began  time.Time
	ended  chan struct{} // closed when there is a result
	result T
	err    error
}

// do returns the result of f, or of a call that is running already. It returns
// errHanging if that takes longer than limit; the call goes on, and its result
// is lost.
func (s *shared[T]) do(ctx context.Context, limit time.Duration, f func() (T, error)) (none T, err error) {
	call := s.join(f)
	timer := time.NewTimer(limit - time.Since(call.began))
	defer timer.Stop()
	select {
	case <-call.ended:
		return call.result, call.err
	case <-timer.C:
		return none, errHanging
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

// join returns the call that is running, or begins one.
func (s *shared[T]) join(f func() (T, error)) *sharedCall[T] {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running != nil {
		return s.running
	}
	call := &sharedCall[T]{began: time.Now(), ended: make(chan struct{})}
	s.running = call
	go func() {
		call.result, call.err = catch(f)
		s.mu.Lock()
		s.running = nil
		s.mu.Unlock()
		close(call.ended)
	}()
	return call
}

// limited makes calls that may hang, at most as many at a time as slots has
// room for. While one of them takes too long, further callers are refused at
// once.
type limited struct {
	slots chan struct{}
	late  atomic.Int32 // calls that take too long
}

// doLimited returns the result of f. It returns errHanging if waiting for a
// slot and calling f together take longer than limit; f goes on, and its result
// is lost.
func doLimited[T any](ctx context.Context, l *limited, limit time.Duration, f func() (T, error)) (none T, err error) {
	if l.late.Load() > 0 {
		return none, errHanging
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case l.slots <- struct{}{}:
	case <-timer.C:
		return none, errHanging
	case <-ctx.Done():
		return none, ctx.Err()
	}
	type outcome struct {
		result T
		err    error
	}
	ended := make(chan outcome, 1)
	go func() {
		overdue := time.AfterFunc(limit, func() { l.late.Add(1) })
		result, err := catch(f)
		if !overdue.Stop() {
			l.late.Add(-1)
		}
		<-l.slots
		ended <- outcome{result, err}
	}()
	select {
	case got := <-ended:
		return got.result, got.err
	case <-timer.C:
		return none, errHanging
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

// catch turns a panic of f into an error: in a goroutine of its own it would end
// the process.
func catch[T any](f func() (T, error)) (result T, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("asking the store panicked: %v", p)
		}
	}()
	return f()
}
