package badger

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
)

// turn knows when Badger may be turning from a full memtable to a new one. Badger
// begins a log then, and removes the one before when its table is written, and
// while the disk takes its time for that it keeps every lookup waiting. A tenth of
// all lookups, about, finds that this may be so.
type turn struct {
	dir       string
	soon      atomic.Bool
	shrinking atomic.Bool // shrink makes turns of its own
	lost      atomic.Bool // nobody knows how full the memtable is

	// The writer's alone.
	log, oldest uint64 // numbers of the log in use, and of the oldest that may be there
	inMemory    int    // bytes of the memtable, estimated
	inLog       int    // bytes of its log
}

// Bytes of an event, and of a batch's end but for its version in decimal digits. In
// memory an event has a key, a value, and a node of the skip list, whose height is
// random; but thousands of them are as high as expected.
const (
	eventInMemory = 77
	eventInLog    = 53
	endInLog      = 28
)

// start begins with the logs that are there after opening.
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

// near reports whether a turn is near, or going on.
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
