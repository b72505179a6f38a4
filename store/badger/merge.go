package badger

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	badgerdb "github.com/dgraph-io/badger/v4"
	"go.uber.org/zap"
)

// mergeGuard keeps Badger from forgetting events when it can't write a table.
// To merge tables, Badger writes new ones, names them in its manifest and
// removes those that it has merged, but it does not notice if a new one could
// not be written (levels.go: the deferred call gets an earlier value of the
// error). For lack of a file descriptor all events of that table would be lost.
//
// The merging goroutine calls Badger's logger before it writes each table and
// before it goes on, so the logger can make it wait.
type mergeGuard struct {
	dir    string
	space  *spaceGuard
	warned sync.Once // that the manifest failed

	mu       sync.Mutex
	expected []uint32        // keys in each table that is being written
	found    map[uint64]bool // written tables that are not in the manifest yet
}

// Formats of the lines that Badger logs while it merges.
const (
	tableFollows = "[%d] LOG Compact. Added %d keys. Skipped %d keys. Iteration took: %v"
	mergeEnds    = "Discard stats: %v"
	mergeFails   = "[Compactor: %d] LOG Compact FAILED with error: %+v: %+v"
)

const (
	// mergePause is the longest pause before a waiting merge checks again.
	mergePause = time.Second

	// mergePatience is how often a waiting merge is logged.
	mergePatience = time.Minute

	// mergeSpace is how many bytes must be free for a memtable and another
	// table of a merge, besides tableSpace for each that is being written. It
	// is at most closeSpace, because closing waits for merges.
	mergeSpace = 2*memTableSize + tableSpace
	tableSpace = 2 * tableSize

	// probeTable is the number of the table that probe writes and removes.
	probeTable = math.MaxUint32
)

// heed gets the format and the arguments of everything that Badger logs.
func (g *mergeGuard) heed(format string, args []any) {
	switch format {
	case tableFollows:
		if keys, ok := args[1].(uint64); ok && keys > 0 {
			g.wait(g.probe)
			g.mu.Lock()
			g.expected = append(g.expected, uint32(keys))
			g.mu.Unlock()
		}
	case mergeEnds:
		g.wait(g.allFound)
	}
}

// manifestFailed is called when Badger could not write its manifest, or not
// sync it. What is in that file by then names tables that Badger removes, so
// only the open database is whole.
func (g *mergeGuard) manifestFailed() {
	g.warned.Do(func() {
		storeLog().Error("the store's "+badgerdb.ManifestFilename+" could not be written, and the store may not open again; make a backup of it with 'caddy instantapi backup' before Caddy is restarted",
			zap.String("path", g.dir))
	})
}

// wait returns once ready succeeds.
func (g *mergeGuard) wait(ready func() error) {
	began, pause := time.Now(), time.Millisecond
	for logged := 1; ; pause = min(2*pause, mergePause) {
		err := ready()
		if err == nil {
			return
		}
		if time.Since(began) > time.Duration(logged)*mergePatience {
			logged++
			storeLog().Error("tables of the store can't be merged; nothing is lost, but if this goes on, restart Caddy once its cause has ended",
				zap.String("path", g.dir), zap.Error(err))
		}
		time.Sleep(pause)
	}
}

// probe checks that there is room, because Badger writes through a mapped file, and
// that a table can be written, by doing what Badger does.
func (g *mergeGuard) probe() error {
	g.mu.Lock() // all probes use one file
	defer g.mu.Unlock()
	if err := g.lookForTables(); err != nil {
		return err
	}
	if err := g.space.require(mergeSpace+uint64(len(g.expected))*tableSpace, "merging"); err != nil {
		return err
	}
	name := filepath.Join(g.dir, tableName(probeTable))
	file, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(make([]byte, os.Getpagesize()))
	err = errors.Join(err, file.Truncate(tableSize), file.Sync(), file.Close())
	if err == nil {
		err = tryMapping(name)
	}
	return errors.Join(err, os.Remove(name))
}

// allFound returns an error unless each table that a merge has begun to write
// is whole. A table that is not whole then never will be, so the merge must not
// end.
func (g *mergeGuard) allFound() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.lookForTables(); err != nil {
		return err
	}
	if n := len(g.expected); n > 0 {
		return fmt.Errorf("%d tables could not be written", n)
	}
	return nil
}

// lookForTables removes the tables that are whole from the expected ones.
func (g *mergeGuard) lookForTables() error {
	if len(g.expected) == 0 {
		return nil
	}
	names, err := listFiles(g.dir)
	if err != nil {
		return err
	}
	named, err := readManifest(g.dir, names)
	if err != nil {
		return err
	}
	for id := range g.found {
		if _, ok := named[id]; ok || !names.tables[id] {
			delete(g.found, id)
		}
	}
	for id := range names.tables {
		if _, ok := named[id]; ok || g.found[id] {
			continue
		}
		if err := g.find(id); err != nil {
			return err
		}
	}
	return nil
}

// find checks whether a table is an expected one, and syncs it if it is.
func (g *mergeGuard) find(id uint64) error {
	name := filepath.Join(g.dir, tableName(id))
	index, err := readIndex(name)
	if errors.Is(err, errDamaged) || errors.Is(err, fs.ErrNotExist) {
		return nil // being written, or just removed
	}
	if err != nil {
		return err
	}
	i := slices.Index(g.expected, index.keys)
	if i < 0 {
		return nil // of a memtable
	}
	if err := syncNamed(name); err != nil {
		return err
	}
	if g.found == nil {
		g.found = make(map[uint64]bool)
	}
	g.found[id] = true
	g.expected = slices.Delete(g.expected, i, i+1)
	return nil
}

// syncNamed syncs a file.
func syncNamed(name string) error {
	file, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}
