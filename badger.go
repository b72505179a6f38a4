package instantapi

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/dustin/go-humanize"
	"go.uber.org/zap"
)

func init() {
	caddy.RegisterModule(BadgerStore{})
}

// BadgerStore remembers delivered events in a [Badger](https://github.com/dgraph-io/badger)
// database that is part of Caddy's own process: there is nothing to install and
// nothing to run beside Caddy. The directory belongs to one Caddy process.
type BadgerStore struct {
	// The directory of the database. It is made if it is missing. Placeholders
	// like `{env.*}` are allowed. Default: the folder `instantapi_verify` in
	// [Caddy's data directory](https://caddyserver.com/docs/conventions#data-directory).
	Path string `json:"path,omitempty"`

	// Whether a delivered event is on the disk before its sender gets the
	// answer. Turned off, a power cut or a crash of the operating system can
	// make the store forget the deliveries of the last moments, and these
	// events are forwarded again if they are sent again; a crash of Caddy
	// alone makes it forget nothing. Default: `true`.
	Sync *bool `json:"sync,omitempty"`

	// Bytes that must be free in the file system for an event to be recorded.
	// Below this the handlers' `on_store_error` decides. It can't be less than
	// 32 MiB, which the database may need by itself. Default: 256 MiB.
	MinFreeSpace int64 `json:"min_free_space,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (BadgerStore) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "instantapi_verify.stores.badger",
		New: func() caddy.Module { return new(BadgerStore) },
	}
}

const (
	defaultMinFreeSpace = 256 << 20

	// lowestMinFreeSpace covers what the database writes between two looks at
	// the free space: its log, the tables made of two full memtables, and what
	// a compaction writes before it deletes its input.
	lowestMinFreeSpace = 32 << 20
)

// Provision sets the defaults. It opens nothing, so that a config can be
// validated beside the server that has the store open.
func (s *BadgerStore) Provision(_ caddy.Context) error {
	if s.Path == "" {
		s.Path = filepath.Join(caddy.AppDataDir(), "instantapi_verify")
	}
	path, err := caddy.NewReplacer().ReplaceOrErr(s.Path, true, true)
	if err != nil {
		return fmt.Errorf("path: %v", err)
	}
	if s.Path, err = filepath.Abs(path); err != nil {
		return fmt.Errorf("path: %v", err)
	}
	if s.Sync == nil {
		on := true
		s.Sync = &on
	}
	if s.MinFreeSpace == 0 {
		s.MinFreeSpace = defaultMinFreeSpace
	}
	return nil
}

// Validate checks the values.
func (s *BadgerStore) Validate() error {
	if s.MinFreeSpace < lowestMinFreeSpace {
		return fmt.Errorf("min_free_space: %d bytes is too little, the database itself may need %s",
			s.MinFreeSpace, humanize.IBytes(lowestMinFreeSpace))
	}
	return nil
}

// Key names the directory: two configs with the same key share an open store.
func (s *BadgerStore) Key() string { return "badger:" + s.Path }

// Options describes what an open store can't change.
func (s *BadgerStore) Options() string {
	sync := "off"
	if *s.Sync {
		sync = "on"
	}
	return fmt.Sprintf("sync %s, min_free_space %s", sync, humanize.IBytes(uint64(s.MinFreeSpace)))
}

// Open opens the database. Its errors name the directory and the remedy.
func (s *BadgerStore) Open() (Store, error) {
	store, err := openBadger(s.Path, *s.Sync, uint64(s.MinFreeSpace), freeSpace)
	if err != nil {
		return nil, fmt.Errorf("store directory %s: %w", s.Path, err)
	}
	return store, nil
}

// badgerStore is an open BadgerStore.
type badgerStore struct {
	db      *badger.DB
	path    string
	writer  batcher[badgerEntry]
	version uint64 // of the last commit; the writer's alone
	space   spaceGuard
	count   eventCount

	closing  chan struct{}
	shrinker sync.WaitGroup
}

type badgerEntry struct {
	id  Identity
	rec Record
}

const (
	memTableSize = 4 << 20

	// tableSize is what a table holds at most. Badger builds up to ten at once,
	// each in twice as much memory, and keeps that for a while.
	tableSize = 2 << 20

	// valueThreshold is the size from which on Badger moves values out of the
	// tables. Ours are 16 bytes, but a cover's are larger, see coverAllKeys.
	valueThreshold = 512 << 10

	// levelZeroTables is how many tables Badger collects before it merges them.
	levelZeroTables = 2

	// coverVersion is the version of the entries that are no events, see
	// coverAllKeys.
	coverVersion = 1

	// maxBatch keeps a commit well below Badger's limit for a transaction,
	// 15% of a memtable: some 6,500 records.
	maxBatch = 4096

	// recordTimeout is how long a delivery waits for its record while the
	// disk hangs: the sender's patience is not known, so not for long.
	recordTimeout = 10 * time.Second
)

// badgerOptions are chosen for entries of 32 bytes that are written once, looked
// up once or never, and expire.
func badgerOptions(path string, sync bool, logger badger.Logger) badger.Options {
	opts := badger.DefaultOptions(path).
		WithLogger(logger).
		// One sync a transaction. Ours hold all records that wait.
		WithSyncWrites(sync).
		// Memory and mapped files are a multiple of these. With Badger's own
		// 64 MiB and 1 GiB an empty store maps 2 GiB. Filling at full speed took
		// 300 MiB of memory with memtables of 8 MiB and tables that double in
		// size with each level, 200 MiB with tables of one size, and takes 135
		// MiB with these.
		WithMemTableSize(memTableSize).
		WithBaseTableSize(tableSize).
		// Most lookups are of unknown events, and each false yes of a filter
		// reads a block: of ten million they took 2.2 µs with Badger's 0.01,
		// and take 1.8 with this, for 0.4 bytes more an event.
		WithBloomFalsePositive(0.001).
		WithValueThreshold(valueThreshold).
		WithValueLogFileSize(1 << 20). // stays empty: our values live in the tree
		// One memtable in use and one being flushed.
		WithNumMemtables(2).
		// Hashes don't compress, and a cache of blocks does not help where every
		// key is looked up once. Without both, reads go to the mapped file, so
		// that the operating system decides what stays in memory.
		WithCompression(options.None).
		WithBlockCacheSize(0).
		WithIndexCacheSize(0).
		// A damaged block is never read as another one, though Badger takes it for
		// one without the key: see damage.go.
		WithChecksumVerificationMode(options.OnBlockRead).
		// There is one writer and it never reads: nothing can conflict.
		WithDetectConflicts(false).
		WithNumVersionsToKeep(1).
		// A lookup asks each table that is not merged yet.
		WithNumLevelZeroTables(levelZeroTables).
		// Two is the least that Badger takes; they are idle but for flushes.
		WithNumCompactors(2).
		WithMetricsEnabled(false)
	opts.TableSizeMultiplier = 1 // a table of tableSize on each level
	return opts
}

// openBadger opens or makes the database in path.
func openBadger(path string, sync bool, minFree uint64, free func(string) (uint64, error)) (*badgerStore, error) {
	if err := checkDirectory(path); err != nil {
		return nil, err
	}
	if inUse(path) { // before anything is read that its owner may be writing
		return nil, errInUse
	}
	s := &badgerStore{path: path, closing: make(chan struct{})}
	s.space = spaceGuard{path: path, min: minFree, free: free}
	if err := s.space.check(); err != nil {
		return nil, err
	}
	if err := markDirectory(path); err != nil {
		return nil, err
	}
	// Without sync a power cut tears logs anywhere, and that was agreed to.
	if err := checkDatabase(path, sync); err != nil {
		return nil, fmt.Errorf("it is damaged: %w; %s (after a power cut with sync off, open it once with sync off)", err, restoreAdvice)
	}
	logger := new(badgerLogger)
	db, err := openManaged(badgerOptions(path, sync, logger))
	if err != nil {
		return nil, explainOpen(err) // db may be half made, and is not to be closed
	}
	if err := logger.complaint(); err != nil {
		_ = db.Close()
		return nil, explainOpen(err)
	}
	logger.opened.Store(true)
	s.db = db
	s.version = max(db.MaxVersion(), coverVersion)
	db.SetDiscardTs(s.version)
	s.writer = batcher[badgerEntry]{commit: s.commit, limit: maxBatch, timeout: recordTimeout}
	s.shrinker.Go(func() { s.shrinkRegularly(shrinkInterval) })
	return s, nil
}

// openManaged opens a database whose versions are ours to give. Badger's own
// make every lookup wait until all commits before it are on the disk.
func openManaged(opts badger.Options) (db *badger.DB, err error) {
	defer func() {
		if p := recover(); p != nil { // seen with damaged tables
			err = fmt.Errorf("opening it panicked: %v", p)
		}
	}()
	return badger.OpenManaged(opts)
}

// Lookup implements [Store].
func (s *badgerStore) Lookup(id Identity) (Record, bool, error) {
	// At the highest of all versions a read sees whatever is committed.
	txn := s.db.NewTransactionAt(math.MaxUint64, false)
	defer txn.Discard()
	item, err := txn.Get(id[:])
	if errors.Is(err, badger.ErrKeyNotFound) {
		return Record{}, false, s.space.checkNowAndThen()
	}
	if err != nil {
		return Record{}, false, fmt.Errorf("looking up an event: %w", err)
	}
	var rec Record
	err = item.Value(func(value []byte) error {
		rec, err = decodeRecord(value)
		return err
	})
	if at := item.ExpiresAt(); at != 0 {
		rec.ExpiresAt = time.Unix(int64(at), 0)
	}
	return rec, err == nil, err
}

// Record implements [Store].
func (s *badgerStore) Record(id Identity, rec Record) error {
	return s.writer.add(badgerEntry{id, rec})
}

// Forget implements [Store]. It records the event as one that has expired: what
// is in a log looks like any other event's entry, see damage.go.
func (s *badgerStore) Forget(id Identity) error {
	return s.Record(id, Record{ExpiresAt: time.Unix(1, 0)})
}

// commit writes the entries in one transaction, with one sync.
func (s *badgerStore) commit(entries []badgerEntry) error {
	if err := s.space.check(); err != nil {
		return err
	}
	version := s.version + 1
	txn := s.db.NewTransactionAt(version, true)
	defer txn.Discard()
	written := make([]badger.Entry, len(entries))
	values := make([]byte, 0, len(entries)*recordSize)
	for i := range entries {
		start := len(values)
		values = appendRecord(values, entries[i].rec)
		written[i] = badger.Entry{Key: entries[i].id[:], Value: values[start:]}
		if at := entries[i].rec.ExpiresAt; !at.IsZero() {
			written[i].ExpiresAt = uint64(at.Unix())
		}
		if err := txn.SetEntry(&written[i]); err != nil {
			return fmt.Errorf("recording %d events: %w", len(entries), err)
		}
	}
	if err := txn.CommitAt(version, nil); err != nil {
		// The next commit takes the same version. Should half of this one be in
		// the log, replaying it would end at an entry of another version.
		return fmt.Errorf("recording %d events: %w", len(entries), err)
	}
	s.version = version
	batchEvents.Observe(float64(len(entries)))
	// Nobody reads an older version: compactions may drop them.
	s.db.SetDiscardTs(version)
	return nil
}

// Close implements [Store].
func (s *badgerStore) Close() error {
	s.writer.close()
	close(s.closing)
	s.shrinker.Wait()
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("closing the store in %s: %w", s.path, err)
	}
	return nil
}

// recordFormat is the first byte of a value: 1 byte format, 2 bytes status, 5
// bytes seconds since 1970, 8 bytes hash of the body. When it expires is an
// attribute of Badger's entry.
const (
	recordFormat = 1
	recordSize   = 16
)

func appendRecord(values []byte, rec Record) []byte {
	start := len(values)
	values = binary.BigEndian.AppendUint64(values, uint64(rec.DeliveredAt.Unix()))
	values[start] = recordFormat
	binary.BigEndian.PutUint16(values[start+1:], uint16(rec.Status))
	return binary.BigEndian.AppendUint64(values, rec.BodyHash)
}

func decodeRecord(value []byte) (Record, error) {
	if len(value) != recordSize || value[0] != recordFormat {
		return Record{}, errors.New("record has an unknown format: it was written by another version of this module")
	}
	var seconds [8]byte
	copy(seconds[3:], value[3:8])
	return Record{
		DeliveredAt: time.Unix(int64(binary.BigEndian.Uint64(seconds[:])), 0),
		Status:      int(binary.BigEndian.Uint16(value[1:])),
		BodyHash:    binary.BigEndian.Uint64(value[8:]),
	}, nil
}

// spaceGuard keeps the database from filling the file system. Badger writes
// through mapped sparse files: without room the write is a SIGBUS, and the
// process is gone.
type spaceGuard struct {
	path string
	min  uint64
	free func(path string) (uint64, error)

	lastLook atomic.Int64          // Unix nanoseconds
	lastErr  atomic.Pointer[error] // of the last look; nil: room enough
}

// lookInterval is how old a reading may be when an event is about to be
// forwarded. (Before a write there is always a new one.)
const lookInterval = 100 * time.Millisecond

// errNoSpace means that there is less free space than min_free_space.
var errNoSpace = errors.New("not enough free space")

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

// checkNowAndThen is check, but for a reading that is new enough.
func (g *spaceGuard) checkNowAndThen() error {
	age := now().UnixNano() - g.lastLook.Load()
	if age < 0 || age > int64(lookInterval) { // below 0: the clock was set back
		return g.check()
	}
	return *g.lastErr.Load()
}

const (
	// markFile tells our directory from any other, so that a path with a typo
	// does not turn somebody's folder into a database.
	markFile    = "INSTANTAPI_VERIFY"
	markContent = "instantapi_verify store, format 1\n"
)

// checkDirectory makes the directory, and makes sure that it is ours, or empty.
func checkDirectory(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return fmt.Errorf("it can't be made: %w; give a path that the user who runs Caddy may write to", err)
	}
	files, err := os.ReadDir(path)
	if err != nil {
		return fmt.Errorf("it can't be read: %w; give it to the user who runs Caddy", err)
	}
	mark, err := os.ReadFile(filepath.Join(path, markFile))
	switch {
	case err == nil && string(mark) == markContent:
		return nil
	case err == nil:
		return fmt.Errorf("it was made by another version of this module (%s says %q); use that version, or another path", markFile, strings.TrimSpace(string(mark)))
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w; give it to the user who runs Caddy", err)
	}
	for _, file := range files {
		// lost+found: a file system of its own is a good place for a store
		if name := file.Name(); name != "lost+found" && name != markFile+".new" {
			return fmt.Errorf("it holds something else (%s); give an empty or a new directory", name)
		}
	}
	return nil
}

const restoreAdvice = "restore the directory from a backup, or move it away to start with an empty store, which forwards again whatever is sent again"

// markDirectory writes the mark, whole or not at all, also at a power cut.
func markDirectory(path string) error {
	mark := filepath.Join(path, markFile)
	if _, err := os.Stat(mark); err == nil {
		return nil
	}
	if err := writeSynced(mark+".new", markContent); err != nil {
		return fmt.Errorf("it can't be written to: %w; give it to the user who runs Caddy", err)
	}
	if err := os.Rename(mark+".new", mark); err != nil {
		return err
	}
	return syncDirectory(path)
}

func writeSynced(name, content string) error {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.WriteString(content); err != nil {
		return err
	}
	return file.Sync()
}

// syncDirectory makes the names in a directory durable.
func syncDirectory(path string) error {
	if runtime.GOOS == "windows" {
		return nil // can't, and need not
	}
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

var errInUse = errors.New("another process has it open; this is usually another Caddy, in which case use 'caddy reload' to change its config, or give this one another path")

// explainOpen adds the remedy to an error from Badger. Badger has no error
// values for these, so its words decide.
func explainOpen(err error) error {
	if strings.Contains(err.Error(), "Another process is using this Badger database") {
		return errInUse
	}
	denied := errors.Is(err, fs.ErrPermission) || strings.Contains(err.Error(), "permission denied") // Badger does not always wrap
	if denied || strings.Contains(err.Error(), "read-only file system") {
		return fmt.Errorf("it can't be written to: %w; give it to the user who runs Caddy", err)
	}
	return fmt.Errorf("it is damaged, or not a database of this version: %w; %s", err, restoreAdvice)
}

// badgerLogger passes Badger's log on to Caddy's, a level lower: what Badger
// calls info is of no interest to an operator.
type badgerLogger struct {
	opened atomic.Bool
	first  atomic.Pointer[string]
}

// complaint returns the first error that Badger logged while opening. It opens
// a database without a table whose checksum is wrong, and only logs it.
func (l *badgerLogger) complaint() error {
	if first := l.first.Load(); first != nil {
		return errors.New(*first)
	}
	return nil
}

func (l *badgerLogger) Errorf(format string, args ...any) {
	message := strings.TrimSpace(fmt.Sprintf(format, args...))
	if !l.opened.Load() {
		l.first.CompareAndSwap(nil, &message)
		return
	}
	storeLog().Error(message)
}

func (l *badgerLogger) Warningf(format string, args ...any) {
	storeLog().Warn(strings.TrimSpace(fmt.Sprintf(format, args...)))
}

func (l *badgerLogger) Infof(format string, args ...any) { l.Debugf(format, args...) }

func (l *badgerLogger) Debugf(format string, args ...any) {
	// Several times a commit: asked before a logger is made.
	if caddy.Log().Core().Enabled(zap.DebugLevel) {
		storeLog().Debug(strings.TrimSpace(fmt.Sprintf(format, args...)))
	}
}

// storeLog returns the log of the config that is in force: an open store
// outlives the one that opened it.
func storeLog() *zap.Logger { return caddy.Log().Named("instantapi_verify.store") }

// Interface guards
var (
	_ caddy.Provisioner = (*BadgerStore)(nil)
	_ caddy.Validator   = (*BadgerStore)(nil)
	_ StoreModule       = (*BadgerStore)(nil)
	_ Store             = (*badgerStore)(nil)
	_ badger.Logger     = (*badgerLogger)(nil)
)
