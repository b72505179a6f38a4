package badger

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"math"
	"os"
	"slices"
	"sync"
	"time"

	badgerdb "github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/y"
	"github.com/instantapi/caddy-instantapi-verify/store"
)

// Statistics implements [store.StatisticsReader].
func (s *database) Statistics(ctx context.Context) (store.Statistics, error) {
	if err := s.pulse.check(ctx); err != nil {
		return store.Statistics{}, err
	}
	return s.figures.do(ctx, patience, s.statistics)
}

func (s *database) statistics() (store.Statistics, error) {
	if !s.calls.enter() {
		return store.Statistics{}, errClosed
	}
	defer s.calls.leave()
	free, err := s.space.free(s.path)
	if err != nil {
		return store.Statistics{}, err
	}
	size, err := bytesOnDisk(s.path)
	if err != nil {
		return store.Statistics{}, err
	}
	return store.Statistics{
		Events:       s.count.read(s.countEvents),
		Bytes:        size,
		FreeBytes:    int64(min(free, math.MaxInt64)),
		MinFreeBytes: int64(s.space.min),
	}, nil
}

// bytesOnDisk returns the size on disk of the files in a directory, without
// subdirectories, of which the database has none.
func bytesOnDisk(path string) (size int64, err error) {
	files, err := os.ReadDir(path)
	if err != nil {
		return 0, err
	}
	for _, file := range files {
		info, err := file.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // Badger has just deleted it
		}
		if err != nil {
			return 0, err
		}
		if info.Mode().IsRegular() {
			size += allocated(info)
		}
	}
	return size, nil
}

// eventCount keeps a count a hundred times as long as the counting took, so
// that counting costs at most a hundredth of a core, however often the count is
// read.
type eventCount struct {
	mu     sync.Mutex
	events int64
	until  time.Time
}

func (c *eventCount) read(count func() int64) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	start := time.Now()
	if start.After(c.until) {
		c.events = count()
		took := time.Since(start)
		c.until = start.Add(100 * took)
	}
	return c.events
}

// countEvents counts the entries that are events. Tables know how many they
// hold. Entries that are not in a table yet have higher versions than those in
// tables, because versions grow and tables are written in their order.
func (s *database) countEvents() (events int64) {
	last := uint64(coverVersion)
	for _, table := range s.steadyTables() {
		events += int64(table.KeyCount)
		last = max(last, table.MaxVersion)
		if bytes.Equal(y.ParseKey(table.Left), firstKey) {
			events--
		}
		if bytes.Equal(y.ParseKey(table.Right), lastKey) {
			events--
		}
	}
	opts := badgerdb.DefaultIteratorOptions
	opts.PrefetchValues = false
	opts.SinceTs = last // leaves out the tables
	txn := s.db.NewTransactionAt(math.MaxUint64, false)
	defer txn.Discard()
	it := txn.NewIterator(opts)
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		events++
	}
	return events
}

// steadyTables returns the tables. It avoids the moment at which both the input
// and the output of a compaction are in place.
func (s *database) steadyTables() []badgerdb.TableInfo {
	tables := s.db.Tables()
	for range 10 {
		again := s.db.Tables()
		if slices.EqualFunc(tables, again, func(a, b badgerdb.TableInfo) bool { return a.ID == b.ID }) {
			break
		}
		tables = again
	}
	return tables
}

// Interface guards
var _ store.StatisticsReader = (*database)(nil)
