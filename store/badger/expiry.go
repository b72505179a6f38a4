package badger

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"time"

	badgerdb "github.com/dgraph-io/badger/v4"
	"github.com/instantapi/caddy-instantapi-verify/store"
	"go.uber.org/zap"
)

// Reclaiming the disk space of expired events.
//
// Badger drops an expired entry when it compacts its table, and it decides by
// size alone when to compact: after a burst of events has expired, nothing
// happens until as much has been written again. So the store puts a table over
// the whole range of keys on top, and then lets Flatten merge all others into
// it. docs/design.md says what else was tried.

const (
	// shrinkInterval is how often the store checks whether much has expired.
	// The check reads a thousand keys.
	shrinkInterval = time.Minute

	// shrinkAt is the share of expired entries at which it is worth rewriting
	// the others. Including the space that rewriting takes, a directory stays
	// within two and a half times its live data.
	shrinkAt = 0.33

	// shrinkFrom is the size of the tables, in bytes, below which it is never
	// worth that.
	shrinkFrom = 4 << 20

	sampleSize = 1000
)

// discardInterval is how many events are recorded before compactions may drop more.
// A memtable holds some 50,000.
const discardInterval = 16_384

// allowDiscarding lets compactions drop what is no longer read, expired entries
// and old versions of others, but nothing of the newest version in the tables:
// that version says how far the events in the tables go, see damage.go.
func (s *database) allowDiscarding() {
	newest := uint64(coverVersion)
	for _, table := range s.db.Tables() {
		newest = max(newest, table.MaxVersion)
	}
	s.db.SetDiscardTs(max(newest-1, coverVersion))
}

// shrinkRegularly shrinks the store at intervals until it is closed.
func (s *database) shrinkRegularly(interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-s.closing:
			return
		}
		s.allowDiscarding()
		if err := s.shrink(); err != nil && !errors.Is(err, errClosing) {
			storeLog().Error("reclaiming the space of expired events failed; trying again later",
				zap.String("path", s.path), zap.Error(err))
		}
	}
}

// shrink drops the expired events if there are many.
func (s *database) shrink() error {
	if err := s.pulse.check(context.Background()); err != nil {
		return err
	}
	before := s.tableSize()
	if before < shrinkFrom {
		return nil
	}
	expired, err := s.expiredShare()
	if err != nil || expired < shrinkAt {
		return err
	}
	free, err := s.space.free(s.path)
	if err != nil {
		return err
	}
	if need := s.space.min + uint64(before) + 2*memTableSize; free < need {
		return fmt.Errorf("%w: reclaiming takes %d bytes, %d are free", errNoSpace, need, free)
	}
	start, expiredBefore := time.Now(), expired
	s.turn.shrinking.Store(true)
	defer func() {
		s.turn.lost.Store(true)
		s.turn.soon.Store(true)
		s.turn.shrinking.Store(false)
	}()
	// Flatten leaves the top level alone if it has few tables and there is no
	// other level. Each cover adds one. Badger may also have merged the cover's
	// table by itself before it was allowed to drop what that holds.
	for covers := 0; covers <= levelZeroTables+1; covers++ {
		if covers > 0 && s.onTopLevel() <= 1 && expired < shrinkAt {
			break
		}
		if err := s.coverAllKeys(); err != nil {
			return err
		}
		s.allowDiscarding()
		if err := s.db.Flatten(2); err != nil {
			return err
		}
		if expired, err = s.expiredShare(); err != nil {
			return err
		}
	}
	storeLog().Debug("reclaimed the space of expired events",
		zap.Float64("expired_share", expiredBefore),
		zap.Int64("bytes_before", before), zap.Int64("bytes_after", s.tableSize()),
		zap.Duration("duration", time.Since(start)))
	return nil
}

// onTopLevel returns how many tables Badger has not merged yet.
func (s *database) onTopLevel() (tables int) {
	for _, table := range s.db.Tables() {
		if table.Level == 0 {
			tables++
		}
	}
	return tables
}

func (s *database) tableSize() (bytes int64) {
	for _, table := range s.db.Tables() {
		bytes += int64(table.OnDiskSize)
	}
	return bytes
}

// expiredShare estimates how many of the entries have expired, from a run of keys
// in a random place. Keys are hashes: any run of them is a fair sample.
func (s *database) expiredShare() (float64, error) {
	opts := badgerdb.DefaultIteratorOptions
	opts.AllVersions = true // also the expired ones
	opts.PrefetchValues = false
	txn := s.db.NewTransactionAt(math.MaxUint64, false)
	defer txn.Discard()
	it := txn.NewIterator(opts)
	defer it.Close()

	var from store.Identity
	rand.Read(from[:])
	seen, expired := 0, 0
	count := func() {
		for ; it.Valid() && seen < sampleSize; it.Next() {
			seen++
			if it.Item().IsDeletedOrExpired() {
				expired++
			}
		}
	}
	it.Seek(from[:])
	count()
	it.Rewind() // in case the run has reached the last key
	count()
	if seen == 0 {
		return 0, nil
	}
	return float64(expired) / float64(seen), nil
}

// The cover's keys, before and behind all identities.
var (
	firstKey = []byte{0}
	lastKey  = bytes.Repeat([]byte{0xff}, len(store.Identity{})+1)
)

// coverAllKeys makes Badger write a table that overlaps all others. Its entries
// expired long ago, and the next compaction drops them. The first one is
// written over and over, because Badger writes a table only when its log is
// full.
func (s *database) coverAllKeys() error {
	filler := make([]byte, valueThreshold/2) // stays in the tables, and fits into a transaction
	if err := s.writeExpired(lastKey, nil); err != nil {
		return err
	}
	for written := 0; written <= memTableSize; written += len(filler) {
		if err := s.writeExpired(firstKey, filler); err != nil {
			return err
		}
	}
	// The log in use should hold an event, as one that an event has begun does:
	// it tells where the log before it ended.
	var unknown store.Identity
	rand.Read(unknown[:])
	if err := s.Forget(context.Background(), unknown); errors.Is(err, errBatchesClosed) {
		return errClosing
	} else if err != nil {
		return err
	}
	// The table is written in the background. Badger removes its log once it is
	// written.
	inUse, _, err := logRange(s.path)
	if err != nil {
		return err
	}
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		select {
		case <-look.C:
		case <-s.closing:
			return errClosing
		}
		_, oldest, err := logRange(s.path)
		if err != nil {
			return err
		}
		if oldest >= inUse {
			return nil
		}
	}
	return errors.New("covering the tables: no table was written within a minute")
}

// errClosing ends work for which closing the store would have to wait.
var errClosing = errors.New("store is being closed")

func (s *database) writeExpired(key, value []byte) error {
	txn := s.db.NewTransactionAt(coverVersion, true)
	defer txn.Discard()
	err := txn.SetEntry(&badgerdb.Entry{Key: key, Value: value, ExpiresAt: 1})
	if err == nil {
		err = txn.CommitAt(coverVersion, nil)
	}
	if err != nil {
		return fmt.Errorf("covering the tables: %w", err)
	}
	return nil
}
