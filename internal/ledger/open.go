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
	// patience is how long the first opening of a store may hold up those who
	// need it: a configuration that loads, and a request that comes before it
	// is loaded. An opening that takes longer goes on without them.
	patience = 5 * time.Second

	// reopenUnavailable is how long to leave a store alone whose trouble may
	// pass by itself, reopenBroken how long one that a person must mend.
	reopenUnavailable = 2 * time.Second
	reopenBroken      = 30 * time.Second

	// closeTimeout is how long Close waits for a store whose disk or engine does
	// not answer. A store that is left open by it is one that crashed.
	closeTimeout = 30 * time.Second
)

// ErrOpening means that the store is still being opened.
var ErrOpening = errors.New("store is still being opened")

var errClosed = errors.New("store is closed")

// opening is the way of a store from closed to open.
type opening struct {
	open     func(context.Context) (store.Store, error)
	released func()
	cancel   context.CancelFunc
	ended    chan struct{} // closed when nobody tries any more
	settled  chan struct{} // closed when the first attempt has ended, or patience has

	mu  sync.Mutex
	err error // why the store is not open; nil: it is
}

// begin opens the store in the background, as often as it takes.
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
			l.log().Info("opening the store takes long; until it is open, on_store_error decides about new events")
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
		// The first error of a store that a person must mend is told by the
		// configuration that fails to load, if that still waits.
		if waitedFor := o.settle(); changed && !(waitedFor && broken) {
			l.log().Error("store can't be opened; until it is open, on_store_error decides about new events", zap.Error(err))
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

// tryOpen turns a panic into an error: here is no request's goroutine to catch it.
func (l *Ledger) tryOpen(ctx context.Context) (opened store.Store, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("opening the store panicked: %v", p)
		}
	}()
	return l.opening.open(ctx)
}

// settle lets those go on who wait. It reports whether they still did.
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

// end notes how an attempt ended, and reports whether that is news.
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

// AwaitOpen waits for the first attempt to open the store, but no longer than five
// seconds. An error means that the store can't be opened, and that a person must
// mend what it says. A store that is not open yet, or is unavailable for now, is
// no error: the ledger goes on trying.
func (l *Ledger) AwaitOpen() error {
	<-l.opening.settled
	err := l.opening.result()
	if errors.Is(err, ErrOpening) || errors.Is(err, store.ErrUnavailable) {
		return nil
	}
	return err
}

// Store returns the store, for its figures, or an error that says why it is not
// open.
func (l *Ledger) Store() (store.Store, error) {
	if err := l.opening.result(); err != nil {
		return nil, err
	}
	return *l.opened.Load(), nil
}

// ready returns the open store. While it is being opened for the first time,
// requests wait as long as a loading configuration does.
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

// closeStore ends the opening, and closes what was opened.
func (l *Ledger) closeStore() error {
	l.opening.cancel()
	closed := make(chan error, 1)
	go func() {
		<-l.opening.ended
		closed <- l.closeOpened()
	}()
	select {
	case err := <-closed:
		return err
	case <-time.After(closeTimeout):
		return fmt.Errorf("store does not close within %s; what was recorded is kept, as after a crash", closeTimeout)
	}
}

func (l *Ledger) closeOpened() error {
	defer l.opening.released()
	if opened := l.opened.Load(); opened != nil {
		return (*opened).Close()
	}
	return nil
}
