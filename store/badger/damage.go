package badger

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	badgerdb "github.com/dgraph-io/badger/v4"
)

// What a crash leaves behind, Badger repairs by itself. Damage it does not always
// tell from that: it opens a database without the tables whose checksum is wrong,
// deletes those that an older or shortened manifest does not name, cuts a log at
// the first entry that it can't read, misses no log that is gone, and takes a
// block that it can't read for one without the key. Each would forget acknowledged
// deliveries in silence; other damage makes it end the process. So the store looks
// at the files before Badger does, with plain reads, because a read of a mapped
// file can fault, and changes nothing until all of them are found whole.
//
// That nothing is missing is proved with the versions. They count the batches, so
// that each batch is the one after the batch before it. What is in the tables is
// known from the highest version in them: Badger writes tables in the order of
// their logs, and drops no entry of that version (see allowDiscarding). Each log goes on
// where the tables or the log before it end, and a table without a name in the
// manifest may hold nothing newer than all of these: then it is what a crash left
// of a table that was being written or removed, and its content is elsewhere. The
// state file says up to which version events must be there, and whether there must
// be a log, see state.go.

// errDamaged is said of nothing but content that was read and is wrong. Its remedy
// costs what was recorded since the last backup.
var errDamaged = errors.New("it is damaged")

// damagef returns an errDamaged that says what is wrong.
func damagef(format string, args ...any) error {
	return fmt.Errorf("%w: %w", errDamaged, fmt.Errorf(format, args...))
}

// findings are what was found in the files of a closed database.
type findings struct {
	names fileNames
	logs  []foundLog
	known uint64 // the last batch that is there, where the logs were checked
}

// examine returns an error if the files of a closed database are damaged, or can't
// be read. It reads all tables to their ends, and says now and then how far it got.
//
// Without strict the logs may have holes: a power cut does that to a store that does not
// sync them.
func examine(ctx context.Context, path string, strict bool) (findings, error) {
	names, err := listFiles(path)
	if err != nil {
		return findings{}, err
	}
	named, err := readManifest(path, names)
	if err != nil {
		return findings{}, err
	}
	for id := range named {
		if !names.tables[id] {
			return findings{}, damagef("%s names table %s, which is missing", badgerdb.ManifestFilename, tableName(id))
		}
	}
	known, err := verifyTables(ctx, path, named)
	if err != nil {
		return findings{}, err
	}
	nameless := namelessTables(path, names, named)
	forgotten := damagef("%s names %d of %d tables, and is older than the others", badgerdb.ManifestFilename, len(named), len(names.tables))
	if !strict && len(names.logs) == 0 && nameless.count > 0 {
		return findings{}, forgotten
	}
	state, err := readState(path)
	if err != nil {
		return findings{}, err
	}
	found := findings{names: names}
	for _, number := range names.logs {
		log, err := readLog(filepath.Join(path, logName(number)))
		if err != nil {
			return findings{}, err
		}
		found.logs = append(found.logs, log)
	}
	if !strict {
		return found, nil
	}
	if found.known, err = checkLogs(found.logs, known, state); err != nil {
		if nameless.newest > known { // which is why something is missing
			err = forgotten
		}
		return findings{}, err
	}
	if nameless.newest > found.known {
		return findings{}, forgotten
	}
	if found.known < state.version {
		return findings{}, damagef("events up to batch %d were recorded, and those behind batch %d are in none of its files", state.version, found.known)
	}
	return found, nil
}
