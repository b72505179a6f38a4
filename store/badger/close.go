package badger

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/store"
)

const (
	// closeSpace is how many bytes must be free to close the database: a
	// memtable becomes a table, and compactions that are under way finish.
	closeSpace = lowestMinFreeSpace / 2

	// closeAgain is the pause before another attempt to close the database.
	closeAgain = 2 * time.Second
)

// Close implements [store.Store]. It returns an error if the disk does not
// answer, or has no room for what closing writes. Then the database is closed
// as soon as that has changed, and opening the same directory waits for it.
// Meanwhile all that was recorded is in the database's log, even if the process
// ends.
func (s *database) Close() error {
	if !s.calls.shut() {
		return fmt.Errorf("closing the store in %s: %w", s.path, errClosed)
	}
	if err := s.closeWithin(patience, s.shutDown); err != nil {
		return fmt.Errorf("closing the store in %s: %w; what it has recorded is in its log", s.path, err)
	}
	return nil
}

// abandonPatience is how long a failed opening waits for the closing of what it
// has opened.
const abandonPatience = time.Second

// abandon closes a database that could not be opened completely, and leaves its
// state file as it is. The closing goes on in the background while Badger can't
// write the table of the log that it has read.
func (s *database) abandon() {
	_ = s.closeWithin(abandonPatience, func(c *closure) { s.closeBadger(c, s.readyToClose) })
}

// closeWithin returns the result of the first attempt to close the database. If
// that takes longer than limit, the closing goes on.
func (s *database) closeWithin(limit time.Duration, shutDown func(*closure)) error {
	c := &closure{ended: make(chan struct{}), result: make(chan error, 1)}
	closing.Store(s.path, c)
	go func() {
		defer close(c.ended)
		defer closing.Delete(s.path)
		shutDown(c)
	}()
	select {
	case err := <-c.result:
		return err
	case <-time.After(limit):
		return errHanging
	}
}

// closing holds the closures of the databases that are being closed, by
// directory.
var closing sync.Map // path → *closure

// closure is the closing of a database, which may take more than one attempt.
type closure struct {
	ended  chan struct{}         // closed once the database is closed
	result chan error            // of the first attempt
	last   atomic.Pointer[error] // of the latest attempt; nil: the first is still under way
}

// tell notes the result of an attempt.
func (c *closure) tell(err error) {
	c.last.Store(&err)
	select {
	case c.result <- err:
	default:
	}
}

// reason returns what the closing waits for.
func (c *closure) reason() error {
	if last := c.last.Load(); last != nil && *last != nil {
		return *last
	}
	return errHanging
}

// awaitClosed waits until the database in path is closed, if this process is
// closing it.
func awaitClosed(ctx context.Context, path string) error {
	value, there := closing.Load(path)
	if !there {
		return nil
	}
	c := value.(*closure)
	select {
	case <-c.ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(patience):
		return fmt.Errorf("%w: it is still being closed: %w", store.ErrUnavailable, c.reason())
	}
}

// shutDown ends everything that uses the database, and closes it as soon as
// that is possible.
func (s *database) shutDown(c *closure) {
	s.writer.close()
	s.yielder.close()
	close(s.closing)
	s.shrinker.Wait()
	<-s.calls.empty
	s.closeBadger(c, func() error {
		if err := s.readyToClose(); err != nil {
			return err
		}
		// Not earlier, because closing removes the log, see state.go.
		return writeState(s.path, storeState{stateClosed, s.version})
	})
}

// closeBadger closes the database as soon as it is ready.
func (s *database) closeBadger(c *closure, ready func() error) {
	for {
		err := ready()
		if err == nil {
			break
		}
		c.tell(err)
		time.Sleep(closeAgain)
	}
	s.pulse.end()
	if s.logSync != nil {
		s.logSync.close()
	}
	c.tell(s.db.Close())
}

// readyToClose returns an error if the database can't be closed now. Closing
// writes a table through a mapped file: without room for it the process would
// get a SIGBUS. (On a disk that hangs, that write would stop the whole process;
// writing the state file stops one goroutine.)
func (s *database) readyToClose() error { return s.space.require(closeSpace, "closing") }
