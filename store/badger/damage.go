package badger

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	badgerdb "github.com/dgraph-io/badger/v4"
)

// Badger repairs what a crash leaves behind, but does not always tell damage
// from that. It opens a database without the tables whose checksum is wrong,
// deletes those that an older or shortened manifest does not name, cuts a log
// at the first entry that it can't read, does not notice a missing log, and
// takes a block that it can't read for one without the key. Each of these
// silently forgets acknowledged deliveries; other damage makes Badger end the
// process. So the store examines the files before Badger does, with plain
// reads, because a read of a mapped file can fault, and changes nothing until
// all of them are found whole.
//
// The versions prove that nothing is missing, because they count the batches
// without a gap. The highest version in the tables says what the tables hold:
// Badger writes tables in the order of their logs, and drops no entry of that
// version (see allowDiscarding). Each log continues where the tables or the log
// before it end. A table that the manifest does not name may hold nothing newer
// than all of these: then a crash left it while it was being written or
// removed, and its content is elsewhere. The state file says up to which
// version events must be there, and whether there must be a log, see state.go.

// errDamaged is used only for content that was read and is wrong, because its
// remedy loses what was recorded since the last backup.
var errDamaged = errors.New("it is damaged")

// damagef returns an errDamaged that says what is wrong.
func damagef(format string, args ...any) error {
	return fmt.Errorf("%w: %w", errDamaged, fmt.Errorf(format, args...))
}

// findings is what examine found in the files of a closed database.
type findings struct {
	names fileNames
	logs  []foundLog
	known uint64 // the last batch in the files; only set by a strict examination
}

// examine returns an error if the files of a closed database are damaged, or
// can't be read. It reads all tables to their ends, and logs its progress.
//
// Unless strict is set the logs may have holes: a power cut leaves them in a
// store that does not sync its logs.
func examine(ctx context.Context, path string, strict bool, report *progress) (findings, error) {
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
	report.expect(named, names.logs)
	known, err := verifyTables(ctx, path, named, report)
	if err != nil {
		return findings{}, err
	}
	nameless, err := namelessTables(path, names, named)
	if err != nil {
		return findings{}, err
	}
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
		log, err := readLog(filepath.Join(path, logName(number)), report)
		if err != nil {
			return findings{}, err
		}
		found.logs = append(found.logs, log)
	}
	if !strict {
		return found, nil
	}
	if found.known, err = checkLogs(found.logs, known, state); err != nil {
		if nameless.newest > known { // this explains what is missing
			err = forgotten
		}
		return findings{}, err
	}
	if nameless.newest > found.known {
		return findings{}, forgotten
	}
	if found.known < state.version {
		return findings{}, damagef("events up to batch %d were recorded, and those after batch %d are in none of its files", state.version, found.known)
	}
	return found, nil
}
