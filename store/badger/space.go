package badger

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"sync/atomic"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/instantapi/caddy-instantapi-verify/store"
)

// spaceGuard keeps the database from filling the file system. Badger writes
// through mapped sparse files: a write without room is a SIGBUS, which ends the
// process.
type spaceGuard struct {
	path string
	min  uint64
	free func(path string) (uint64, error)

	lastLook atomic.Int64          // Unix nanoseconds
	lastErr  atomic.Pointer[error] // of the last check; nil: enough room
	looking  shared[struct{}]
}

// lookInterval is how old a reading may be when an event is about to be
// forwarded. (Each write is preceded by a new one.)
const lookInterval = 100 * time.Millisecond

// errNoSpace means that there is less free space than min_free_space.
var errNoSpace error = noSpaceError{}

type noSpaceError struct{}

func (noSpaceError) Error() string { return "not enough free space" }

// Is makes errNoSpace match the errors of the store's contract: until somebody
// makes room, an open store can't record, and a closed one can't be opened.
func (noSpaceError) Is(target error) bool {
	return target == store.ErrCannotRecord || target == store.ErrUnavailable
}

// check reads the free space, however long that takes.
func (g *spaceGuard) check() error {
	free, err := g.free(g.path)
	switch {
	case err != nil:
		err = fmt.Errorf("reading the free space of %s: %w", g.path, err)
	case free < g.min:
		err = fmt.Errorf("%w: %s free in %s, min_free_space is %s; make room, or choose another path",
			errNoSpace, humanize.IBytes(free), g.path, humanize.IBytes(g.min))
	}
	g.lastLook.Store(now().UnixNano())
	g.lastErr.Store(&err)
	return err
}

// require returns an error unless that many bytes are free for something that
// writes through mapped files.
func (g *spaceGuard) require(need uint64, what string) error {
	free, err := g.free(g.path)
	if err != nil {
		return fmt.Errorf("reading the free space: %w", err)
	}
	if free < need {
		return fmt.Errorf("%w: %s free, %s takes %s; make room", errNoSpace, humanize.IBytes(free), what, humanize.IBytes(need))
	}
	return nil
}

// checkNowAndThen is check, but it uses a recent reading if there is one, and
// waits no longer than patience.
func (g *spaceGuard) checkNowAndThen(ctx context.Context) error {
	age := now().UnixNano() - g.lastLook.Load()
	if age >= 0 && age <= int64(lookInterval) { // negative if the clock was set back
		return *g.lastErr.Load()
	}
	_, err := g.looking.do(ctx, patience, func() (struct{}, error) { return struct{}{}, g.check() })
	if errors.Is(err, errHanging) {
		return fmt.Errorf("%w: reading the free space of %s: %w", store.ErrCannotRecord, g.path, err)
	}
	return err
}

// blockBytes returns the size of this many blocks in bytes. A negative number
// means no space: FreeBSD counts down into what is reserved for root. Linux
// passes such a number on without its sign; like df, the conversion to int64
// takes the top bit for the sign.
func blockBytes(blocks int64, size uint64) uint64 {
	if blocks <= 0 {
		return 0
	}
	high, low := bits.Mul64(uint64(blocks), size)
	if high > 0 {
		return math.MaxUint64
	}
	return low
}
