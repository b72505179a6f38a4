package instantapi

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
)

// Badger keeps the records of an unfinished table in a log, a file *.mem, and
// replays it when it opens. Where it finds an entry that is not whole it takes
// that for the end, and cuts the log there. That is right for the torn tail of a
// crash; but where whole batches follow, the log was damaged later, and cutting
// it would forget deliveries that were acknowledged. So this looks first.
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
	for _, log := range logs {
		if err := checkLog(log); err != nil {
			return err
		}
	}
	return nil
}

func checkLog(file string) error {
	log, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if len(log) <= logHeaderSize {
		return nil // Badger was just making it
	}
	log = log[logHeaderSize:]
	whole, end := wholeEntries(log)
	rest := bytes.TrimRight(log[end:], "\x00")
	if len(rest) == 0 {
		return nil
	}
	// Versions count the batches. The first one that is not whole is the one
	// after the last whole one; of a batch after that there can be something
	// only if the one before was on the disk, synced.
	if later := latestEvent(rest); later > whole+1 {
		return fmt.Errorf("its log %s is damaged at byte %d: batch %d can't be read, though batch %d was written after it",
			filepath.Base(file), logHeaderSize+end, whole+1, later)
	}
	return nil
}

// logEntry is what has to be known of an entry.
type logEntry struct {
	size    int
	meta    byte
	version uint64
	event   bool // and not a cover's or a batch's last
}

// wholeEntries reads entries as Badger does when it replays. It returns the
// version of the last batch that is whole, and where the first thing begins that
// can't be read.
func wholeEntries(log []byte) (version uint64, end int) {
	for {
		entry, ok := readLogEntry(log[end:])
		if !ok {
			return version, end
		}
		if entry.meta&metaOfBatchE != 0 && entry.version > coverVersion {
			version = entry.version
		}
		end += entry.size
	}
}

// latestEvent returns the highest version among the events' entries in log,
// wherever they begin.
func latestEvent(log []byte) (version uint64) {
	// How every event's entry begins.
	start := []byte{metaOfBatch, 0, byte(len(Identity{}) + versionSize), recordSize}
	for {
		i := bytes.Index(log, start)
		if i < 0 {
			return version
		}
		if entry, ok := readLogEntry(log[i:]); ok && entry.event {
			version = max(version, entry.version)
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
		event:   keySize == uint64(len(Identity{})+versionSize) && valueSize == recordSize,
	}, true
}
