package badger

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	badgerdb "github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/ristretto/v2/z"
	"github.com/instantapi/caddy-instantapi-verify/store"
)

// What a crash leaves behind Badger repairs by itself. Damage it does not always
// tell from that: it opens a database without the tables whose checksum is
// wrong, deletes the ones that a shortened manifest does not name, cuts a log at
// the first entry that it can't read, and takes a block that it can't read for
// one without the key. Each would forget acknowledged deliveries in silence. So
// this looks at the files before Badger does, and changes nothing. (Damage that
// comes while a store is open stays unseen, and a compaction makes it permanent.)

// checkDatabase returns an error if the files of a closed database are damaged.
func checkDatabase(path string, logs bool) error {
	if err := checkTables(path); err != nil {
		return err
	}
	if !logs {
		return nil
	}
	return checkLogs(path)
}

// checkTables compares the tables with the manifest and verifies all their
// checksums.
func checkTables(path string) (err error) {
	defer func() {
		if p := recover(); p != nil { // how Badger reads a manifest of garbage
			err = fmt.Errorf("reading %s panicked: %v", badgerdb.ManifestFilename, p)
		}
	}()
	files, err := filepath.Glob(filepath.Join(path, "*.sst"))
	if err != nil {
		return err
	}
	file, err := os.Open(filepath.Join(path, badgerdb.ManifestFilename))
	if errors.Is(err, fs.ErrNotExist) {
		if len(files) == 0 {
			return nil // a new database
		}
		return fmt.Errorf("%s is missing beside %d tables", badgerdb.ManifestFilename, len(files))
	}
	if err != nil {
		return err
	}
	defer file.Close()
	manifest, _, err := badgerdb.ReplayManifestFile(file, 0, badgerOptions(path, true, nil))
	if err != nil {
		return fmt.Errorf("%s can't be read: %w", badgerdb.ManifestFilename, err)
	}
	known := slices.Collect(maps.Keys(manifest.Tables))
	if len(files) > len(known) { // Badger would delete the others
		// A crash can leave tables that the manifest does not name yet, but then
		// what they were made of is still there, and so is the log in use.
		if logs, _ := filepath.Glob(filepath.Join(path, "*.mem")); len(logs) == 0 {
			return fmt.Errorf("%s names %d of %d tables", badgerdb.ManifestFilename, len(known), len(files))
		}
	}
	return verifyTables(path, known)
}

// verifyTables reads all tables to their ends.
func verifyTables(path string, ids []uint64) error {
	errs := make([]error, len(ids))
	var wg sync.WaitGroup
	const atOnce = 4
	for worker := range atOnce {
		wg.Go(func() {
			for i := worker; i < len(ids); i += atOnce {
				errs[i] = verifyTable(table.NewFilename(ids[i], path))
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func verifyTable(name string) (err error) {
	defer func() {
		if p := recover(); p != nil { // how Badger reads a table of garbage
			err = fmt.Errorf("table %s can't be read: %v", filepath.Base(name), p)
		}
	}()
	file, err := z.OpenMmapFile(name, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close(-1)
	_, err = table.OpenTable(file, table.Options{ReadOnly: true, ChkMode: options.OnTableRead, Compression: options.None})
	if err != nil {
		return fmt.Errorf("table %s: %w", filepath.Base(name), err)
	}
	return nil
}

// Badger keeps the records of an unfinished table in a log, a file *.mem, and
// replays it when it opens. Where it finds an entry that is not whole it takes
// that for the end, and cuts the log there. That is right for the torn tail of a
// crash; but where a later batch follows, there or in a newer log, the log was
// damaged after it had been synced, and cutting it would forget deliveries that
// were acknowledged. So this looks first.
//
// The format is that of Badger v4, memtable.go: a header of 20 bytes, then
// entries of meta, user meta, key length, value length and expiry (as varints),
// key, value and CRC-32C. A key ends with its version, counted down from the
// largest number.

const (
	logHeaderSize = 20
	versionSize   = 8
	metaOfBatch   = 1 << 6
	metaOfBatchE  = 1 << 7 // the batch's last entry
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checkLogs returns an error if a log in the directory is damaged.
func checkLogs(path string) error {
	logs, err := filepath.Glob(filepath.Join(path, "*.mem"))
	if err != nil {
		return err
	}
	slices.SortFunc(logs, func(a, b string) int { // 99999.mem is older than 100000.mem
		return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b))
	})
	var whole uint64
	for _, log := range logs {
		if whole, err = checkLog(log, whole); err != nil {
			return err
		}
	}
	return nil
}

// checkLog checks a log behind one whose last whole batch is known, 0 where there
// is none, and returns the last whole batch of both.
//
// Versions count the batches. The first one that is not whole is the one after
// the last whole one; of a batch after that there can be something only if the
// one before was on the disk, synced.
func checkLog(file string, whole uint64) (uint64, error) {
	log, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	if len(log) <= logHeaderSize {
		return whole, nil // Badger was just making it
	}
	log = log[logHeaderSize:]
	first, last, end := wholeEntries(log)
	lowest, highest := eventVersions(log[end:])
	if first = cmp.Or(first, lowest); first == 0 {
		return whole, nil
	}
	if whole == 0 {
		whole = first - 1 // what was before it is in the tables
	}
	if first > whole+1 {
		return 0, fmt.Errorf("its log before %s is damaged: batch %d can't be read, though batch %d was written after it",
			filepath.Base(file), whole+1, first)
	}
	whole = max(whole, last)
	if highest > whole+1 {
		return 0, fmt.Errorf("its log %s is damaged at byte %d: batch %d can't be read, though batch %d was written after it",
			filepath.Base(file), logHeaderSize+end, whole+1, highest)
	}
	return whole, nil
}

// logEntry is what has to be known of an entry.
type logEntry struct {
	size    int
	meta    byte
	version uint64
	event   bool // and not a cover's or a batch's last
}

// wholeEntries reads entries as Badger does when it replays. It returns the
// versions of the first event and of the last batch that is whole, 0 where there
// is none, and where the first thing begins that can't be read.
func wholeEntries(log []byte) (first, last uint64, end int) {
	for {
		entry, ok := readLogEntry(log[end:])
		if !ok {
			return first, last, end
		}
		if first == 0 && entry.event {
			first = entry.version
		}
		if entry.meta&metaOfBatchE != 0 && entry.version > coverVersion {
			last = entry.version
		}
		end += entry.size
	}
}

// eventVersions returns the lowest and the highest version among the events'
// entries in log, wherever they begin, 0 where there is none.
func eventVersions(log []byte) (lowest, highest uint64) {
	// How every event's entry begins.
	start := []byte{metaOfBatch, 0, byte(len(store.Identity{}) + versionSize), recordSize}
	for {
		i := bytes.Index(log, start)
		if i < 0 {
			return lowest, highest
		}
		if entry, ok := readLogEntry(log[i:]); ok && entry.event {
			highest = max(highest, entry.version)
			if lowest == 0 || entry.version < lowest {
				lowest = entry.version
			}
		}
		log = log[i+1:]
	}
}

func readLogEntry(log []byte) (entry logEntry, ok bool) {
	if len(log) < 2 || log[0] == 0 && log[1] == 0 {
		return entry, false
	}
	size := 2
	var fields [3]uint64 // key length, value length, expiry
	for i := range fields {
		value, n := binary.Uvarint(log[size:])
		if n <= 0 {
			return entry, false
		}
		fields[i] = value
		size += n
	}
	keySize, valueSize := fields[0], fields[1]
	if keySize < versionSize || keySize > 1<<16 || valueSize > uint64(len(log)) {
		return entry, false
	}
	key := size
	size += int(keySize + valueSize)
	if size+crc32.Size > len(log) {
		return entry, false
	}
	if crc32.Checksum(log[:size], castagnoli) != binary.BigEndian.Uint32(log[size:]) {
		return entry, false
	}
	version := log[key+int(keySize)-versionSize : key+int(keySize)]
	return logEntry{
		size:    size + crc32.Size,
		meta:    log[0],
		version: ^binary.BigEndian.Uint64(version),
		event:   keySize == uint64(len(store.Identity{})+versionSize) && valueSize == recordSize,
	}, true
}
