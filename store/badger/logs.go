package badger

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"hash/crc32"
	"path/filepath"
	"slices"

	"github.com/instantapi/caddy-instantapi-verify/store"
)

// Badger keeps the records of an unfinished table in a log, a file *.mem, and
// replays it when it opens. It takes an entry that is not whole for the end,
// and cuts the log there. That is right for the torn tail of a crash. But if a
// later batch follows, in this log or in a newer one, the log was damaged after
// it had been synced, and cutting it would forget acknowledged deliveries.
//
// The format is that of Badger v4, memtable.go: a header of 20 bytes, then
// entries of meta, user meta, key length, value length and expiry (as varints),
// key, value and CRC-32C. A key ends with its version, counted down from the
// largest number. A new log has its full size, filled with zeros; it is cut
// where its content ends only when it is replayed.

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
	end         int    // where the first entry begins that can't be read
	begun       bool   // something follows the whole batches
	flipped     bool   // a single wrong byte keeps the next entry from being read
	cover       bool   // what can't be read is part of a cover

	lowest, highest uint64 // versions of events behind end, 0: none
}

// readLog reads a log. Wrong content is no error; it is noted in the result.
func readLog(name string, report *progress) (foundLog, error) {
	content, err := report.readFile(name)
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

// complete reports whether a log's file was not cut off. An entry or a batch at
// its end may be unfinished all the same.
func (log *foundLog) complete() bool {
	return log.size >= logSize || log.size >= logHeaderSize && !log.begun
}

// checkLogs returns the last batch in the tables and the logs. The last batch
// in the tables is known. It returns an error if a batch before the last one is
// missing.
//
// After the last whole batch only the next one may be there in part: a batch is
// begun only once the one before it has been synced to the disk.
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
	// Badger makes the next log before it removes an old one.
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

// check returns an error if a log is damaged. The last batch before its end is
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

// readEntries reads entries as Badger does when it replays a log.
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

// logEntry is what is needed of an entry.
type logEntry struct {
	size    int
	meta    byte
	version uint64
	event   bool // not of a cover, and not the last one of a batch
}

// eventVersions returns the lowest and the highest version among the events'
// entries in log, wherever they begin, or 0 if there is none.
func eventVersions(log []byte) (lowest, highest uint64) {
	// Every event's entry begins with these bytes.
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

// smallEntry is more bytes than an event's entry or a batch's last entry takes.
const smallEntry = 80

// isFlipped reports whether log begins with an entry of which a single byte is
// wrong. A crash does not cause that: what it kept from being written is zeros.
// Zeros at the end of what was written therefore don't count as wrong bytes.
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
