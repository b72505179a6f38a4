package badger

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	badgerdb "github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

// manifestTables are the tables that a manifest names, by their number.
type manifestTables map[uint64]badgerdb.TableManifest

// readManifest returns the tables that are part of the database.
//
// Like Badger, it ignores a record at the end of the manifest that is not
// whole: a crash may have interrupted its writing.
func readManifest(path string, names fileNames) (tables manifestTables, err error) {
	if !names.manifest {
		if len(names.tables) > 0 {
			return nil, damagef("%s is missing beside %d tables", badgerdb.ManifestFilename, len(names.tables))
		}
		return nil, nil // a new database
	}
	file, err := os.Open(filepath.Join(path, badgerdb.ManifestFilename))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	// Badger takes a failure of the first read for wrong content.
	if _, err := os.ReadFile(file.Name()); err != nil {
		return nil, err
	}
	opts := badgerOptions(path, true, new(logger))
	defer func() {
		if p := recover(); p != nil { // Badger panics on a manifest of garbage
			err = damagef("reading %s panicked: %v", badgerdb.ManifestFilename, p)
		}
	}()
	manifest, _, err := badgerdb.ReplayManifestFile(file, opts.ExternalMagicVersion, opts)
	if _, unread := errors.AsType[*fs.PathError](err); unread {
		return nil, err
	}
	if err != nil {
		return nil, damagef("%s can't be read: %w", badgerdb.ManifestFilename, err)
	}
	for id, table := range manifest.Tables {
		if int(table.Level) >= opts.MaxLevels || table.KeyID != 0 || table.Compression != options.None {
			return nil, damagef("%s describes table %s unlike a table of this store", badgerdb.ManifestFilename, tableName(id))
		}
	}
	return manifest.Tables, nil
}

// nameless describes the tables in a directory that its manifest does not name.
type nameless struct {
	count  int
	newest uint64 // the highest version in them
}

// namelessTables examines the tables that Badger would delete. One that is not
// whole was being written when the process ended.
func namelessTables(path string, names fileNames, named manifestTables) (found nameless, err error) {
	for id := range names.tables {
		if _, ok := named[id]; ok || id == probeTable {
			continue
		}
		found.count++
		switch index, err := readIndex(filepath.Join(path, tableName(id))); {
		case err == nil:
			found.newest = max(found.newest, index.maxVersion)
		case !errors.Is(err, errDamaged):
			return found, err
		}
	}
	return found, nil
}
