package badger

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	badgerdb "github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/instantapi/caddy-instantapi-verify/store"
)

// database is an open Module.
type database struct {
	db          *badgerdb.DB
	path        string
	writer      batcher[entry]
	yielder     *yielder
	version     uint64   // of the last commit; only the writer uses it
	undiscarded int      // events since discarding was allowed; only the writer uses it
	noLog       bool     // Badger could not begin its next log; only the writer uses it
	logSync     *logSync // nil if Badger's own sync is enough; only the writer uses it
	space       spaceGuard
	pulse       pulse
	residence   residence
	turn        turn
	lookups     limited // while a turn is near
	figures     shared[store.Statistics]
	count       eventCount
	calls       *gate      // for calls that read the database
	backup      sync.Mutex // held while one is made

	closing  chan struct{}
	shrinker sync.WaitGroup
}

type entry struct {
	id  store.Identity
	rec store.Record
}

const (
	memTableSize = 4 << 20

	// tableSize is the largest size of a table. Badger builds up to ten at
	// once, each in twice as much memory, which it keeps for a while.
	tableSize = 2 << 20

	// valueThreshold is the size from which Badger moves values out of the
	// tables. Records have 16 bytes, but a cover's values are larger, see
	// coverAllKeys.
	valueThreshold = 512 << 10

	// levelZeroTables is how many tables Badger collects before it merges them.
	levelZeroTables = 2

	// coverVersion is the version of the entries that are not events, see
	// coverAllKeys.
	coverVersion = 1

	// maxBatch keeps a commit well below Badger's limit for a transaction,
	// 15% of a memtable: some 6,500 records.
	maxBatch = 4096

	// recordTimeout is how long a delivery waits for its record while the disk
	// hangs. It is short because nobody knows how long the sender waits.
	recordTimeout = 10 * time.Second

	// lookupsAtOnce is how many lookups may be stuck in a disk that hangs. A
	// higher number would not help: with a disk that works, lookups don't wait.
	lookupsAtOnce = 16
)

// badgerOptions suit entries of 32 bytes that are written once, looked up once
// or never, and expire. docs/design.md has the measurements.
func badgerOptions(path string, sync bool, logger badgerdb.Logger) badgerdb.Options {
	opts := badgerdb.DefaultOptions(path).
		WithLogger(logger).
		// Badger syncs once per transaction, and a transaction holds all
		// records that wait.
		WithSyncWrites(sync).
		// Memory and mapped files are a multiple of these. With Badger's
		// defaults an empty store maps 2 GiB.
		WithMemTableSize(memTableSize).
		WithBaseTableSize(tableSize).
		// Most lookups are of unknown events, and each false positive of a
		// filter reads a block. This rate costs 0.4 bytes more per event than
		// Badger's default of 0.01.
		WithBloomFalsePositive(0.001).
		WithValueThreshold(valueThreshold).
		WithValueLogFileSize(1 << 20). // stays empty: all values are in the tables
		// One memtable in use and one being flushed.
		WithNumMemtables(2).
		// Hashes don't compress, and a block cache does not help if every key
		// is looked up once. Without both, reads go to the mapped file, so the
		// operating system decides what stays in memory.
		WithCompression(options.None).
		WithBlockCacheSize(0).
		WithIndexCacheSize(0).
		// Without this check a damaged block could be read as another one.
		// Badger takes a block that fails it for one without the key, see
		// damage.go.
		WithChecksumVerificationMode(options.OnBlockRead).
		// There is one writer, and it never reads, so nothing can conflict.
		WithDetectConflicts(false).
		WithNumVersionsToKeep(1).
		// A lookup searches each table that is not merged yet.
		WithNumLevelZeroTables(levelZeroTables).
		// Two is the least that Badger accepts; they are idle except for
		// flushes.
		WithNumCompactors(2).
		WithMetricsEnabled(false)
	opts.TableSizeMultiplier = 1 // a table of tableSize on each level
	return opts
}

// openBadger opens or makes the database in path.
func openBadger(ctx context.Context, path string, sync bool, minFree uint64, free func(string) (uint64, error)) (*database, error) {
	if err := checkDirectory(path); err != nil {
		return nil, err
	}
	if err := checkLock(path); err != nil { // before reading what another process may be writing
		return nil, err
	}
	s := &database{path: path, calls: newGate(), closing: make(chan struct{})}
	s.space = spaceGuard{path: path, min: minFree, free: free}
	if err := s.space.check(); err != nil {
		return nil, err
	}
	if err := markDirectory(path); err != nil {
		return nil, err
	}
	yielder, err := newYielder()
	if err != nil {
		return nil, explainOpen(path, err)
	}
	if err := s.open(ctx, sync); err != nil {
		yielder.close()
		return nil, explainOpen(path, err)
	}
	s.yielder = yielder
	if sync && syncsLogByFile {
		s.logSync = &logSync{dir: path, number: s.turn.log, sync: syncFile}
	}
	s.lookups.slots = make(chan struct{}, lookupsAtOnce)
	s.writer = batcher[entry]{commit: s.commit, limit: maxBatch, timeout: recordTimeout, yield: yielder.yield}
	s.shrinker.Go(func() { s.shrinkRegularly(shrinkInterval) })
	return s, nil
}

// open opens the database in a directory that is a store, if its files are
// whole.
func (s *database) open(ctx context.Context, sync bool) error {
	// With sync off a power cut may tear logs anywhere, which that option
	// accepts.
	report := startProgress(s.path)
	defer report.stop()
	found, err := examine(ctx, s.path, sync, report)
	if err != nil {
		return err
	}
	if err := rehearse(s.path); err != nil {
		return err
	}
	if err := prepare(s.path, found); err != nil {
		return err
	}
	// Reading all files may have taken long, so check the space again: Badger
	// writes through mapped files.
	if err := s.space.check(); err != nil {
		return err
	}
	logger := &logger{merges: &mergeGuard{dir: s.path, space: &s.space}}
	opts := badgerOptions(s.path, sync && badgerSyncs, logger)
	db, err := openManaged(opts)
	for isInterruptedLock(err) {
		db, err = openManaged(opts)
	}
	if err != nil {
		return err // db may be half made, and must not be closed
	}
	s.db = db
	s.version = max(db.MaxVersion(), coverVersion)
	err = logger.complaint()
	if err == nil && sync && s.version != found.known {
		err = damagef("Badger read events up to batch %d, but there are events up to batch %d", s.version, found.known)
	}
	if err == nil {
		err = errors.Join(s.turn.start(s.path), s.residence.start(s.path), s.pulse.start(s.path))
	}
	if err == nil {
		err = writeState(s.path, storeState{stateOpen, s.version})
	}
	if err != nil {
		s.abandon()
		return err
	}
	logger.opened.Store(true)
	s.allowDiscarding()
	return nil
}

// openManaged opens a database whose versions this package assigns. With
// Badger's own versions every lookup waits until all commits before it are on
// the disk.
func openManaged(opts badgerdb.Options) (db *badgerdb.DB, err error) {
	// Badger reads logs through mapped files. A page that can't be read is a fault.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		p := recover()
		switch fault, ok := p.(interface{ Addr() uintptr }); {
		case ok:
			err = fmt.Errorf("reading a mapped file: the page at %#x: %w", fault.Addr(), diskCodes[0])
		case p != nil: // seen with damaged tables
			err = fmt.Errorf("opening it panicked: %v", p)
		}
	}()
	return badgerdb.OpenManaged(opts)
}
