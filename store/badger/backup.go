package badger

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"time"

	badgerdb "github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/pb"
	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/badger/v4/y"
	"github.com/dustin/go-humanize"
	"github.com/instantapi/caddy-instantapi-verify/store"
	"google.golang.org/protobuf/proto"
)

// A backup is written as the files of a closed store, with plain writes: on a
// full disk they fail, whereas a mapped write would end the process. The mark
// file is written last, so that half a backup is not taken for a store.

// errBackupRunning means that a backup is already being made. More than one at
// a time would only take longer, and slow down the guard.
var errBackupRunning = errors.New("another backup of this store is being made; try again when it is done")

// Backup implements [store.Backuper]. It works at most half of the time, and
// holds one table in memory. The files that it reads stay on the disk until it
// is done, even if Badger has replaced them.
func (s *database) Backup(ctx context.Context, directory string) (report store.BackupReport, err error) {
	if !s.calls.enter() {
		return report, errClosed
	}
	defer s.calls.leave()
	if !s.backup.TryLock() {
		return report, errBackupRunning
	}
	defer s.backup.Unlock()
	if err := s.answers(ctx); err != nil {
		return report, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-s.closing:
			cancel(errClosed)
		case <-ended:
		}
	}()
	if err := s.checkBackupDirectory(directory); err != nil {
		return report, err
	}
	// Reading a page of a table that can't be read is a fault.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	return catch(func() (store.BackupReport, error) { return s.writeBackup(ctx, directory) })
}

// answers returns an error if the disk has no room or does not answer. It is asked
// before each table, so that a backup ends in time where the disk hangs.
func (s *database) answers(ctx context.Context) error {
	if err := s.pulse.check(ctx); err != nil {
		return err
	}
	return s.space.checkNowAndThen(ctx)
}

// checkBackupDirectory makes the directory if it is missing, and checks that a
// copy may be written there.
func (s *database) checkBackupDirectory(directory string) error {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s: %w", store.ErrBackupDirectory, directory, fmt.Errorf(format, args...))
	}
	if !filepath.IsAbs(directory) {
		return refuse("give an absolute path")
	}
	own, err := filepath.EvalSymlinks(s.path)
	if err != nil {
		return err
	}
	for dir := realPath(directory); ; dir = filepath.Dir(dir) {
		if dir == own {
			return refuse("it is in the directory of the store itself; give another one")
		}
		if dir == filepath.Dir(dir) {
			break
		}
	}
	if err := os.MkdirAll(directory, 0o700); err != nil {
		return refuse("it can't be made: %w", err)
	}
	files, err := os.ReadDir(directory)
	if err != nil {
		return refuse("it can't be read: %w", err)
	}
	if slices.ContainsFunc(files, func(file fs.DirEntry) bool { return file.Name() != "lost+found" }) {
		return refuse("it is not empty; give a new or empty directory")
	}
	free, err := freeSpace(directory)
	if err != nil {
		return refuse("reading its free space: %w", err)
	}
	if need := uint64(s.tableSize()) + 2*memTableSize; free < need+s.space.min {
		return refuse("it has %s free, the backup may take %s, and min_free_space must stay free; make room, or give another directory",
			humanize.IBytes(free), humanize.IBytes(need))
	}
	return nil
}

// realPath resolves the links in a path as far as it exists.
func realPath(path string) string {
	for rest := ""; ; {
		if found, err := filepath.EvalSymlinks(path); err == nil {
			return filepath.Join(found, rest)
		}
		if path == filepath.Dir(path) {
			return filepath.Join(path, rest)
		}
		rest = filepath.Join(filepath.Base(path), rest)
		path = filepath.Dir(path)
	}
}

// writeBackup copies all events.
func (s *database) writeBackup(ctx context.Context, directory string) (report store.BackupReport, err error) {
	txn := s.db.NewTransactionAt(math.MaxUint64, false)
	defer txn.Discard()
	// Before the first table the directory would look like one for a new store.
	if err := writeSynced(filepath.Join(directory, unfinishedFile), ""); err != nil {
		return report, err
	}
	events, tables := s.steadyIterator(txn)
	defer events.Close()
	out := backupWriter{directory: directory, options: backupTableOptions(s.path)}
	defer out.close()
	for events.Rewind(); events.Valid(); events.Next() {
		item := events.Item()
		if len(item.Key()) != len(store.Identity{}) {
			continue // a cover
		}
		out.add(item)
		if !out.full() {
			continue
		}
		if err := s.nextTable(ctx, &out); err != nil {
			return report, err
		}
	}
	if err := s.nextTable(ctx, &out); err != nil {
		return report, err
	}
	// Badger takes a block that it can't read for the end of its table. The
	// iterator keeps the files from being deleted.
	if _, err := verifyTables(ctx, s.path, tables, nil); err != nil {
		return report, fmt.Errorf("the store itself: %w", err)
	}
	return out.report, out.finish()
}

// steadyIterator returns an iterator over all events, and the tables that it reads.
func (s *database) steadyIterator(txn *badgerdb.Txn) (*badgerdb.Iterator, manifestTables) {
	opts := badgerdb.DefaultIteratorOptions
	opts.PrefetchValues = false
	for {
		before := s.db.Tables()
		events := txn.NewIterator(opts)
		after := s.db.Tables()
		if slices.EqualFunc(before, after, func(a, b badgerdb.TableInfo) bool { return a.ID == b.ID }) {
			tables := manifestTables{}
			for _, t := range after {
				tables[t.ID] = badgerdb.TableManifest{}
			}
			return events, tables
		}
		events.Close()
	}
}

// nextTable writes what was added, and then pauses as long as that took.
func (s *database) nextTable(ctx context.Context, out *backupWriter) error {
	if err := s.answers(ctx); err != nil {
		return err
	}
	if err := out.writeTable(); err != nil {
		return err
	}
	select {
	case <-time.After(min(time.Since(out.began), time.Second)):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	out.began = time.Now()
	return nil
}

// backupWriter writes the files of a store.
type backupWriter struct {
	directory string
	options   table.Options
	builder   *table.Builder // nil: nothing was added
	began     time.Time
	tables    []*pb.ManifestChange
	newest    uint64 // version
	report    store.BackupReport
}

func backupTableOptions(path string) table.Options {
	opts := badgerOptions(path, true, nil)
	return table.Options{
		TableSize:          tableSize,
		BlockSize:          opts.BlockSize,
		BloomFalsePositive: opts.BloomFalsePositive,
		ChkMode:            opts.ChecksumVerificationMode,
		Compression:        opts.Compression,
	}
}

func (w *backupWriter) add(item *badgerdb.Item) {
	if w.builder == nil {
		w.began = time.Now()
		w.builder = table.NewTableBuilder(w.options)
	}
	value, _ := item.ValueCopy(nil) // can't fail: the value is in the table itself
	w.builder.Add(y.KeyWithTs(item.Key(), item.Version()), y.ValueStruct{Value: value, ExpiresAt: item.ExpiresAt()}, 0)
	w.newest = max(w.newest, item.Version())
	w.report.Events++
}

func (w *backupWriter) full() bool { return w.builder.ReachedCapacity() }

func (w *backupWriter) close() {
	if w.builder != nil {
		w.builder.Close()
		w.builder = nil
	}
}

// writeTable writes what was added as a table.
func (w *backupWriter) writeTable() error {
	if w.builder == nil {
		return nil
	}
	content := w.builder.Finish()
	w.close()
	id := uint64(len(w.tables) + 1)
	if err := writeSynced(filepath.Join(w.directory, tableName(id)), string(content)); err != nil {
		return err
	}
	lastLevel := uint32(badgerOptions(w.directory, true, nil).MaxLevels - 1)
	w.tables = append(w.tables, &pb.ManifestChange{Id: id, Op: pb.ManifestChange_CREATE, Level: lastLevel})
	w.report.Bytes += int64(len(content))
	return nil
}

// finish writes the files that turn the tables into a store.
func (w *backupWriter) finish() error {
	changes, err := proto.Marshal(&pb.ManifestChangeSet{Changes: w.tables})
	if err != nil {
		return err
	}
	// The format is that of Badger's manifest.go: a text, two versions, and
	// records with their length and checksum.
	manifest := []byte("Bdgr\x00\x00\x00\x08")
	manifest = binary.BigEndian.AppendUint32(manifest, uint32(len(changes)))
	manifest = binary.BigEndian.AppendUint32(manifest, crc32.Checksum(changes, castagnoli))
	manifest = append(manifest, changes...)
	if err := writeWhole(filepath.Join(w.directory, badgerdb.ManifestFilename), string(manifest)); err != nil {
		return err
	}
	if err := writeState(w.directory, storeState{stateClosed, max(w.newest, coverVersion)}); err != nil {
		return err
	}
	if err := markDirectory(w.directory); err != nil {
		return err
	}
	return os.Remove(filepath.Join(w.directory, unfinishedFile))
}

// Interface guard
var _ store.Backuper = (*database)(nil)
