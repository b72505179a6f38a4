package badger

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/instantapi/caddy-instantapi-verify/store"
)

const (
	// closeSpace is how many bytes must be free to close the database: a memtable
	// becomes a table, and compactions that are under way come to their ends.
	closeSpace = lowestMinFreeSpace / 2

	// closeAgain is when to look again whether it can be closed.
	closeAgain = 2 * time.Second
)

// Close implements [store.Store]. It returns an error when the disk does not
// answer, or has no room for what closing writes. The database is closed as soon as
// that has changed, and whoever opens the same directory waits for it. All that was
// recorded is in the database's log meanwhile, also if the process ends.
func (s *database) Close() error {
	if !s.calls.shut() {
		return fmt.Errorf("closing the store in %s: %w", s.path, errClosed)
	}
	closed := make(chan struct{})
	closing.Store(s.path, closed)
	result := make(chan error, 1) // the first
	go func() {
		defer close(closed)
		defer closing.Delete(s.path)
		s.shutDown(result)
	}()
	var err error
	select {
	case err = <-result:
	case <-time.After(patience):
		err = errHanging
	}
	if err != nil {
		return fmt.Errorf("closing the store in %s: %w; what it has recorded is in its log", s.path, err)
	}
	return nil
}

// closing has the directories whose databases are being closed, with a channel that
// is closed when that is done.
var closing sync.Map // path → chan struct{}

// awaitClosed waits until the database in path, should this process have had it
// open, is closed.
func awaitClosed(ctx context.Context, path string) error {
	closed, there := closing.Load(path)
	if !there {
		return nil
	}
	select {
	case <-closed.(chan struct{}):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(patience):
		return fmt.Errorf("%w: it is still being closed, because %w", store.ErrUnavailable, errHanging)
	}
}

// shutDown closes the database as soon as that is possible, and tells the result of
// the first attempt.
func (s *database) shutDown(result chan<- error) {
	tell := func(err error) {
		select {
		case result <- err:
		default:
		}
	}
	s.writer.close()
	s.yielder.close()
	close(s.closing)
	s.shrinker.Wait()
	<-s.calls.empty
	for {
		err := s.readyToClose()
		if err == nil { // and not before: Badger removes the log, see state.go
			err = writeState(s.path, storeState{stateClosed, s.version})
		}
		if err == nil {
			break
		}
		tell(err)
		time.Sleep(closeAgain)
	}
	s.pulse.end()
	if s.logSync != nil {
		s.logSync.close()
	}
	tell(s.db.Close())
}

// readyToClose returns an error if the database can't be closed now. Badger writes
// a table then, through a mapped file: without room for it the process would get a
// SIGBUS. (On a disk that hangs it would stop as a whole, where writing the state
// file stops one goroutine.)
func (s *database) readyToClose() error {
	free, err := s.space.free(s.path)
	if err != nil {
		return fmt.Errorf("reading the free space: %w", err)
	}
	if free < closeSpace {
		return fmt.Errorf("%w: %s free, it takes %s", errNoSpace, humanize.IBytes(free), humanize.IBytes(closeSpace))
	}
	return nil
}
