package badger

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Calls that may hang are bounded in time and number, and work again when the
// hang has ended.
func TestCallsThatHangAreBounded(t *testing.T) {
	const atOnce = 4
	for name, test := range map[string]struct {
		bounded func() func(context.Context, func() (int, error)) (int, error)
		atOnce  int32
	}{
		"limited": {func() func(context.Context, func() (int, error)) (int, error) {
			l := &limited{slots: make(chan struct{}, atOnce)}
			return func(ctx context.Context, f func() (int, error)) (int, error) {
				return doLimited(ctx, l, patience, f)
			}
		}, atOnce},
		"shared": {func() func(context.Context, func() (int, error)) (int, error) {
			s := new(shared[int])
			return func(ctx context.Context, f func() (int, error)) (int, error) {
				return s.do(ctx, patience, f)
			}
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { hangAndGoOn(t, test.bounded(), test.atOnce) })
		})
	}
}

// hangAndGoOn makes many calls that hang, and one after the hang has ended.
func hangAndGoOn(t *testing.T, do func(context.Context, func() (int, error)) (int, error), atOnce int32) {
	var hanging atomic.Int32
	hang := make(chan struct{})
	wantRefused := func(after time.Duration) {
		t.Helper()
		start := time.Now()
		_, err := do(t.Context(), func() (int, error) {
			hanging.Add(1)
			<-hang
			return 1, nil
		})
		if took := time.Since(start); !errors.Is(err, errHanging) || took != after {
			t.Errorf("got %v after %v, want errHanging after %v", err, took, after)
		}
	}
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() { wantRefused(patience) })
	}
	wg.Wait()
	wantRefused(0)
	if n := hanging.Load(); n != atOnce {
		t.Errorf("%d calls hang, want %d", n, atOnce)
	}
	close(hang)
	synctest.Wait()
	if got, err := do(t.Context(), func() (int, error) { return 2, nil }); got != 2 || err != nil {
		t.Errorf("after the fault: got %d, %v", got, err)
	}
}

func TestCallsEndWithTheirContexts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		defer close(hang)
		f := func() (int, error) { <-hang; return 1, nil }
		crowd := &limited{slots: make(chan struct{}, 1)}
		for name, do := range map[string]func(context.Context) (int, error){
			"limited":                     func(ctx context.Context) (int, error) { return doLimited(ctx, crowd, patience, f) },
			"limited, waiting for a slot": func(ctx context.Context) (int, error) { return doLimited(ctx, crowd, patience, f) },
			"shared":                      func(ctx context.Context) (int, error) { return new(shared[int]).do(ctx, patience, f) },
		} {
			short, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			start := time.Now()
			if _, err := do(short); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
				t.Errorf("%s: got %v after %v", name, err, time.Since(start))
			}
		}
	})
}

// A panic is an error of the call, not the end of the process.
func TestCallsThatPanicFail(t *testing.T) {
	f := func() (int, error) { panic("out of order") }
	if _, err := new(shared[int]).do(t.Context(), patience, f); err == nil || !strings.Contains(err.Error(), "out of order") {
		t.Errorf("shared: got %v", err)
	}
	if _, err := doLimited(t.Context(), &limited{slots: make(chan struct{}, 1)}, patience, f); err == nil || !strings.Contains(err.Error(), "out of order") {
		t.Errorf("limited: got %v", err)
	}
}
