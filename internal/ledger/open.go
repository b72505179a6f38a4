package ledger

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/instantapi/caddy-instantapi-verify/store"
)

const (
	// patience is how long the first opening of a store may hold up a
	// configuration that is loading, and requests that come before it is
	// loaded. They go on without the store if it takes longer to open.
	patience = 5 * time.Second

	// reopenUnavailable is the pause before another attempt to open a store
	// whose trouble may pass by itself, and reopenBroken the pause for a store
	// that a person must mend.
	reopenUnavailable = 2 * time.Second
	reopenBroken      = 30 * time.Second

	// closeTimeout is how long Close waits for a store whose disk or engine
	// does not answer. A store that Close gives up on is left as after a crash.
	closeTimeout = 30 * time.Second
)

// ErrOpening means that the store is still being opened.
var ErrOpening = errors.New("store is still being opened")

var errClosed = errors.New("store is closed")

// opening is the state of the attempts to open a store.
type opening struct {
	open     func(context.Context) (store.Store, error)
	released func()
	cancel   context.CancelFunc
	ended    chan struct{} // closed after the last attempt
	settled  chan struct{} // closed when the first attempt or patience has ended

	mu  sync.Mutex
	err error // why the store is not open; nil: it is open
}

// begin opens the store in the background, and tries again until that succeeds.
func (l *Ledger) begin() {
	ctx, cancel := context.WithCancel(context.Background())
	l.opening.cancel = cancel
	go func() {
		defer close(l.opening.ended)
		l.openUntilOpen(ctx)
	}()
}

func (l *Ledger) openUntilOpen(ctx context.Context) {
	o := &l.opening
	impatient := time.AfterFunc(patience, func() {
		if o.settle() {
			l.log().Info("opening the store takes long; until it is open, on_store_error decides what happens to new events")
		}
	})
	defer impatient.Stop()
	for attempt := 1; ; attempt++ {
		opened, err := l.tryOpen(ctx)
		if err == nil {
			l.opened.Store(&opened)
			o.end(nil)
			if late := !o.settle(); late || attempt > 1 {
				l.log().Info("store is open")
			}
			return
		}
		if ctx.Err() != nil {
			o.end(errClosed)
			o.settle()
			return
		}
		l.failed(l.metrics.OpenErrors, err)
		changed := o.end(err)
		broken := !errors.Is(err, store.ErrUnavailable)
		// The configuration, if it still waits, reports the first error of a
		// store that a person must mend, because it fails to load with that
		// error.
		if waitedFor := o.settle(); changed && !(waitedFor && broken) {
			l.log().Error("store can't be opened; until it is open, on_store_error decides what happens to new events", zap.Error(err))
		}
		pause := reopenUnavailable
		if broken {
			pause = reopenBroken
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// tryOpen turns a panic into an error: in this goroutine it would end the
// process.
func (l *Ledger) tryOpen(ctx context.Context) (opened store.Store, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("opening the store panicked: %v", p)
		}
	}()
	return l.opening.open(ctx)
}

// settle ends the waiting for the first attempt. It reports whether anybody
// could still have been waiting.
func (o *opening) settle() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case <-o.settled:
		return false
	default:
		close(o.settled)
		return true
	}
}

// end notes how an attempt ended, and reports whether that differs from the
// attempt before.
func (o *opening) end(err error) (changed bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	changed = err == nil || o.err.Error() != err.Error()
	o.err = err
	return changed
}

func (o *opening) result() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

// AwaitOpen waits for the first attempt to open the store, for at most five
// seconds. An error means that the store can't be opened, and names what a
// person must mend. A store that is not open yet, or is unavailable for now, is
// no error: the ledger goes on trying.
func (l *Ledger) AwaitOpen() error {
	<-l.opening.settled
	err := l.opening.result()
	if errors.Is(err, ErrOpening) || errors.Is(err, store.ErrUnavailable) {
		return nil
	}
	return err
}

// Store returns the open store, or an error that says why it is not open.
func (l *Ledger) Store() (store.Store, error) {
	if err := l.opening.result(); err != nil {
		return nil, err
	}
	return *l.opened.Load(), nil
}

// ready returns the open store. During the first attempt to open it, ready
// waits as long as a loading configuration does.
func (l *Ledger) ready(ctx context.Context) (store.Store, error) {
	if opened := l.opened.Load(); opened != nil {
		return *opened, nil
	}
	select {
	case <-l.opening.settled:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return l.Store()
}

// closeStore ends the attempts to open the store, and closes it if it was
// opened.
func (l *Ledger) closeStore() error {
	l.opening.cancel()
	closed := make(chan error, 1)
	go func() {
		<-l.opening.ended
		closed <- l.closeOpened()
	}()
	limit := closeTimeout
	if l.opened.Load() == nil {
		limit = patience // nothing waits to be written
	}
	select {
	case err := <-closed:
		return err
	case <-time.After(limit):
		return fmt.Errorf("the store did not close within %s; it keeps what was recorded, as after a crash", limit)
	}
}

func (l *Ledger) closeOpened() error {
	defer l.opening.released()
	if opened := l.opened.Load(); opened != nil {
		return (*opened).Close()
	}
	return nil
}
