package badger

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
)

// turn knows when Badger may be switching from a full memtable to a new one.
// Badger then begins a new log, and removes the old one once its table is
// written; while it waits for the disk it blocks every lookup. About a tenth of
// all lookups happen while a turn may be near.
type turn struct {
	dir       string
	soon      atomic.Bool
	shrinking atomic.Bool // shrink causes turns of its own
	lost      atomic.Bool // it is not known how full the memtable is

	// Only the writer uses these.
	log, oldest uint64 // numbers of the log in use, and of the oldest that may still exist
	inMemory    int    // bytes of the memtable, estimated
	inLog       int    // bytes of its log
}

// Sizes in bytes of an event, and of a batch's end without the decimal digits
// of its version. In memory an event takes a key, a value, and a node of the
// skip list. The height of a node is random, but the average over thousands of
// them is known.
const (
	eventInMemory = 77
	eventInLog    = 53
	endInLog      = 28
)

// start begins with the logs that exist after opening.
func (t *turn) start(dir string) error {
	t.dir = dir
	newest, oldest, err := logRange(dir)
	if err != nil {
		return err
	}
	t.oldest, t.log = oldest, newest
	t.soon.Store(t.oldest < t.log)
	return nil
}

// near reports whether a turn is near or in progress.
func (t *turn) near() bool { return t.soon.Load() || t.shrinking.Load() }

// expect is called before a batch is committed.
func (t *turn) expect(events int, version uint64) {
	if t.lost.Swap(false) {
		t.inMemory = memTableSize
	}
	t.inMemory += events * eventInMemory
	t.inLog += events*eventInLog + endInLog + len(strconv.FormatUint(version, 10))
	if t.nearlyFull() {
		t.soon.Store(true)
	}
}

func (t *turn) nearlyFull() bool { return max(t.inMemory, t.inLog) > memTableSize*9/10 }

// look is called when a batch is committed.
func (t *turn) look() {
	if !t.soon.Load() {
		return
	}
	for t.exists(t.log + 1) {
		t.log++
		t.inMemory, t.inLog = 0, 0
	}
	for t.oldest < t.log && !t.exists(t.oldest) {
		t.oldest++
	}
	if t.oldest == t.log && !t.nearlyFull() {
		t.soon.Store(false)
	}
}

func (t *turn) exists(log uint64) bool {
	_, err := os.Lstat(filepath.Join(t.dir, logName(log)))
	return !errors.Is(err, fs.ErrNotExist)
}
