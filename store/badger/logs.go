package badger

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"

	"github.com/instantapi/caddy-instantapi-verify/store"
)

// Badger keeps the records of an unfinished table in a log, a file *.mem, and
// replays it when it opens. Where it finds an entry that is not whole it takes
// that for the end, and cuts the log there. That is right for the torn tail of a
// crash; but where a later batch follows, there or in a newer log, the log was
// damaged after it had been synced, and cutting it would forget deliveries that
// were acknowledged.
//
// The format is that of Badger v4, memtable.go: a header of 20 bytes, then
// entries of meta, user meta, key length, value length and expiry (as varints),
// key, value and CRC-32C. A key ends with its version, counted down from the
// largest number. A log is made with all of its size, as zeros, and cut where it ends
// only when it is replayed.

const (
	logHeaderSize = 20
	logSize       = 2 * memTableSize
	versionSize   = 8
	metaOfBatch   = 1 << 6
	metaOfBatchE  = 1 << 7 // the batch's last entry
)

// foundLog is what is in a log.
type foundLog struct {
	name        string
	size        int
	keyID       uint64 // of an encryption key: 0
	first, last uint64 // versions of the first event and of the last whole batch, 0: none
	batches     int    // where the last whole batch ends
	end         int    // where the first thing begins that can't be read
	begun       bool   // something follows the whole batches
	flipped     bool   // one wrong byte keeps what follows from being read
	cover       bool   // what can't be read is part of a cover

	lowest, highest uint64 // versions of the events' entries behind the end, 0: none
}

// readLog reads a log, and fails only if it can't be read at all.
func readLog(name string) (foundLog, error) {
	content, err := os.ReadFile(name)
	if err != nil {
		return foundLog{}, err
	}
	log := foundLog{name: filepath.Base(name), size: len(content)}
	if len(content) < logHeaderSize {
		log.batches, log.end = len(content), len(content)
		return log, nil
	}
	log.keyID = binary.BigEndian.Uint64(content)
	written := max(logHeaderSize, len(bytes.TrimRight(content, "\x00")))
	content = content[:min(len(content), written+crc32.Size)] // a checksum may end with zeros
	log.readEntries(content)
	log.begun = log.batches < written
	rest := content[log.end:]
	log.lowest, log.highest = eventVersions(rest)
	log.flipped = log.begun && isFlipped(rest, written-log.end)
	log.cover = bytes.HasPrefix(rest, []byte{metaOfBatch, 0, byte(len(firstKey) + versionSize)})
	return log, nil
}

// complete reports whether a log is whole but for an entry or a batch that was being
// written: its file was not cut off.
func (log *foundLog) complete() bool {
	return log.size >= logSize || log.size >= logHeaderSize && !log.begun
}

// checkLogs returns the last batch in the tables and the logs, whose last batch in
// the tables is known. It returns an error if a batch is missing before it.
//
// The first batch that is not whole is the one after the last whole one; of a batch
// after that there can be something only if the one before was on the disk, synced.
func checkLogs(logs []foundLog, known uint64, state storeState) (uint64, error) {
	inTables := known
	var newest *foundLog
	for i := range logs {
		log := &logs[i]
		if log.size == 0 {
			continue // Badger was just making or removing it
		}
		if first := cmp.Or(log.first, log.lowest); first > known+1 {
			if newest == nil {
				return 0, damagef("batch %d is in none of its files, though its log %s goes on with batch %d", known+1, log.name, first)
			}
			return 0, damagef("its log before %s is damaged: batch %d can't be read, though batch %d was written after it",
				log.name, known+1, first)
		}
		known = max(known, log.last)
		if err := log.check(known); err != nil {
			return 0, err
		}
		newest = log
	}
	if state.kind != stateOpen {
		return known, nil
	}
	// Badger makes the log in use before it removes another.
	switch {
	case newest == nil:
		return 0, damagef("its log is missing, though it was not closed")
	case newest.size < logSize:
		return 0, damagef("its log %s is cut off at byte %d", newest.name, newest.size)
	case newest.last > 0 && newest.last < inTables:
		return 0, damagef("its log %s ends with batch %d and is older than its tables, which end with batch %d", newest.name, newest.last, inTables)
	}
	return known, nil
}

// check returns an error if a log is damaged, where the last batch before its end is
// known.
func (log *foundLog) check(known uint64) error {
	switch {
	case log.keyID != 0:
		return damagef("its log %s is damaged at its beginning", log.name)
	case log.highest > known+1:
		return damagef("its log %s is damaged at byte %d: batch %d can't be read, though batch %d was written after it",
			log.name, log.end, known+1, log.highest)
	case !log.complete():
		return damagef("its log %s is cut off at byte %d", log.name, log.size)
	case log.highest > 0 && log.cover:
		return damagef("its log %s is damaged at byte %d: what is there can't be read, though batch %d was written after it",
			log.name, log.end, log.highest)
	case log.flipped:
		return damagef("its log %s is damaged at byte %d: one byte there is wrong", log.name, log.end)
	}
	return nil
}

// readEntries reads entries as Badger does when it replays.
func (log *foundLog) readEntries(content []byte) {
	log.batches, log.end = logHeaderSize, logHeaderSize
	for {
		entry, ok := readLogEntry(content[log.end:])
		if !ok {
			return
		}
		if log.first == 0 && entry.version > coverVersion {
			log.first = entry.version
		}
		log.end += entry.size
		if entry.meta&metaOfBatchE != 0 {
			log.batches = log.end
			if entry.version > coverVersion {
				log.last = entry.version
			}
		}
	}
}

// logEntry is what has to be known of an entry.
type logEntry struct {
	size    int
	meta    byte
	version uint64
	event   bool // and not a cover's or a batch's last
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

// smallEntry is more than an event's entry or a batch's last one takes.
const smallEntry = 80

// isFlipped reports whether log begins with an entry of which a single byte is
// wrong. A crash does not do that: where it kept something from being written there
// are zeros. So does the end of what was written, where there are zeros behind.
func isFlipped(log []byte, written int) bool {
	entry := slices.Clone(log[:min(len(log), smallEntry)])
	for i, was := range entry {
		if was == 0 && i >= written {
			break // the last bytes of an entry that was being written
		}
		for wrong := 1; wrong < 1<<8; wrong++ {
			entry[i] = was ^ byte(wrong)
			if _, ok := readLogEntry(entry); ok {
				return true
			}
		}
		entry[i] = was
	}
	return false
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
