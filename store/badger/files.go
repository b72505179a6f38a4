package badger

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	badgerdb "github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/table"
)

// Badger's files, apart from the manifest and the lock.
const (
	tableSuffix    = ".sst"
	logSuffix      = ".mem"
	valueLogSuffix = ".vlog"
	keyRegistry    = "KEYREGISTRY"
	discardFile    = "DISCARD"
)

// fileNames holds the names of a database's files.
type fileNames struct {
	manifest bool
	tables   map[uint64]bool // by their number
	logs     []uint64        // by their number, the oldest first
	others   []string        // files that hold no events
}

// listFiles returns the names of a database's files. It refuses names that look
// like Badger's own and are not, because Badger fails at them, or ends the
// process.
func listFiles(path string) (names fileNames, err error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return names, fmt.Errorf("it can't be read: %w", err)
	}
	names.tables = make(map[uint64]bool)
	for _, entry := range entries {
		name := entry.Name()
		number, kind := parseFileName(name)
		switch kind {
		case notOurs:
			continue
		case wrong:
			return names, fmt.Errorf("it holds a file that is not the store's (%s); move that file away", name)
		}
		if !entry.Type().IsRegular() {
			return names, fmt.Errorf("%s is not a regular file; move it away", name)
		}
		switch kind {
		case isManifest:
			names.manifest = true
		case isTable:
			names.tables[number] = true
		case isLog:
			names.logs = append(names.logs, number)
		case isOther:
			names.others = append(names.others, name)
		}
	}
	slices.Sort(names.logs) // as numbers: 99999.mem is older than 100000.mem
	return names, nil
}

type fileKind int

const (
	notOurs fileKind = iota
	wrong            // Badger takes it for its own, and fails
	isManifest
	isTable
	isLog
	isOther
)

// parseFileName returns what Badger takes a file for.
func parseFileName(name string) (number uint64, kind fileKind) {
	switch name {
	case badgerdb.ManifestFilename:
		return 0, isManifest
	case keyRegistry, discardFile:
		return 0, isOther
	}
	for suffix, format := range map[string]struct {
		name func(uint64) string
		kind fileKind
	}{tableSuffix: {tableName, isTable}, logSuffix: {logName, isLog}, valueLogSuffix: {valueLogName, isOther}} {
		digits, ok := strings.CutSuffix(name, suffix)
		if !ok {
			continue
		}
		number, err := strconv.ParseUint(digits, 10, 32)
		if err != nil || format.name(number) != name {
			return 0, wrong
		}
		return number, format.kind
	}
	return 0, notOurs
}

func tableName(number uint64) string    { return table.IDToFilename(number) }
func logName(number uint64) string      { return fmt.Sprintf("%05d%s", number, logSuffix) }
func valueLogName(number uint64) string { return fmt.Sprintf("%06d%s", number, valueLogSuffix) }

// all returns all names, joined to a path.
func (names fileNames) all(path string) (files []string) {
	if names.manifest {
		files = append(files, filepath.Join(path, badgerdb.ManifestFilename))
	}
	for number := range names.tables {
		files = append(files, filepath.Join(path, tableName(number)))
	}
	for _, number := range names.logs {
		files = append(files, filepath.Join(path, logName(number)))
	}
	for _, name := range names.others {
		files = append(files, filepath.Join(path, name))
	}
	return files
}

// logRange returns the numbers of the newest and of the oldest log of an open database.
func logRange(path string) (newest, oldest uint64, err error) {
	names, err := listFiles(path)
	if err != nil {
		return 0, 0, err
	}
	if len(names.logs) == 0 {
		return 0, 0, fmt.Errorf("there is no log in %s", path)
	}
	return names.logs[len(names.logs)-1], names.logs[0], nil
}
