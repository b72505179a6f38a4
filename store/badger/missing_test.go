package badger

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	badgerdb "github.com/dgraph-io/badger/v4"
	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
	"github.com/instantapi/caddy-instantapi-verify/store"
)

// A store with files that are missing, or older than the others, is refused:
// opened, it would have forgotten the deliveries in them.

// moments are copies of the files of an open store, as a kill leaves them.
type moments struct {
	new    string // has no events
	log    string // has events in its log
	table  string // has events in a table and in its log
	tables string // has events in two tables and in its log
}

func takeMoments(t *testing.T) (m moments) {
	t.Helper()
	live := t.TempDir()
	s := testStore(t, live, true)
	take := func() string {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(live)); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	fill := func(tables int) {
		caddytest.Eventually(t, "a table is written and its log removed", func() bool {
			fillStore(t, s, 2000, time.Time{})
			files, _ := filepath.Glob(filepath.Join(live, "*.sst"))
			return len(files) >= tables
		})
		caddytest.Eventually(t, "its log is removed", func() bool {
			newest, oldest, err := logRange(live)
			return err == nil && newest == oldest
		})
		fillStore(t, s, 10, time.Time{})
	}
	m.new = take()
	fillStore(t, s, 100, time.Time{})
	m.log = take()
	fill(1)
	m.table = take()
	fill(2) // and they may already be merged
	m.tables = take()
	return m
}

// mix copies the files of dir that match one of the patterns into another directory, in
// place of its own.
func mix(t *testing.T, into, dir string, patterns ...string) {
	t.Helper()
	for _, pattern := range patterns {
		for _, from := range []string{into, dir} {
			files, err := filepath.Glob(filepath.Join(from, pattern))
			if err != nil {
				t.Fatal(err)
			}
			for _, file := range files {
				if from == into {
					err = os.Remove(file)
				} else {
					err = copyFile(filepath.Join(into, filepath.Base(file)), file)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

func copyFile(to, from string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, content, 0o600)
}

func TestFilesOfDifferentMomentsAreRefused(t *testing.T) {
	m := takeMoments(t)
	const manifest, tables, logs = badgerdb.ManifestFilename, "*.sst", "*.mem"
	for name, test := range map[string]struct {
		dir, from string
		files     []string
		want      string
	}{
		"older manifest beside the first table":  {m.table, m.log, []string{manifest}, "MANIFEST names 0 of 1 tables"},
		"older manifest beside the second table": {m.tables, m.table, []string{manifest}, "MANIFEST names"},
		"older manifest and its state":           {m.tables, m.table, []string{manifest, stateFile}, "MANIFEST names"},
		"older manifest and tables":              {m.tables, m.table, []string{manifest, tables}, "is in none of its files"},
		"older manifest and no table":            {m.table, m.log, []string{manifest, tables}, "is in none of its files"},
		"older tables":                           {m.tables, m.table, []string{tables}, "which is missing"},
		"older log":                              {m.table, m.log, []string{logs}, "is older than its tables"},
		"older log, not the oldest":              {m.tables, m.table, []string{logs}, "is older than its tables"},
		"newer log":                              {m.log, m.tables, []string{logs}, "is in none of its files"},
		"newer log beside a table":               {m.table, m.tables, []string{logs}, "is in none of its files"},
		"newer manifest":                         {m.table, m.tables, []string{manifest}, "which is missing"},
		"newer manifest beside no table":         {m.log, m.table, []string{manifest}, "which is missing"},
		"newer tables":                           {m.log, m.tables, []string{tables}, "MANIFEST names 0 of"},
		"no log":                                 {m.tables, t.TempDir(), []string{logs}, "its log is missing"},
		"no log, before the first table":         {m.log, t.TempDir(), []string{logs}, "its log is missing"},
		"no manifest":                            {m.tables, t.TempDir(), []string{manifest}, "MANIFEST is missing"},
		"no table":                               {m.tables, t.TempDir(), []string{tables}, "which is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			mix(t, dir, test.dir, "*")
			mix(t, dir, test.from, test.files...)
			if strings.HasPrefix(name, "older manifest") && test.dir == m.tables && !hasAll(t, dir, m.table) {
				test.want = "which is missing" // because its tables have been merged
			}
			wantRefused(t, dir, "it is damaged", test.want, "restore the directory from a backup")
		})
	}
	for name, dir := range map[string]string{"new": m.new, "log": m.log, "table": m.table, "tables": m.tables} {
		t.Run("whole/"+name, func(t *testing.T) { testStore(t, dir, true) })
	}
}

// hasAll reports whether a directory has all the tables of another.
func hasAll(t *testing.T, dir, other string) bool {
	t.Helper()
	return !slices.ContainsFunc(tables(t, other), func(table string) bool { return !exists(filepath.Join(dir, filepath.Base(table))) })
}

func TestManifestWithoutItsRecordsIsRefused(t *testing.T) {
	m := takeMoments(t)
	for name, size := range map[string]int64{"as a new one": 16, "its header alone": 8} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			mix(t, dir, m.table, "*")
			if err := os.Truncate(filepath.Join(dir, badgerdb.ManifestFilename), size); err != nil {
				t.Fatal(err)
			}
			wantRefused(t, dir, "it is damaged", "MANIFEST names 0 of 1 tables")
		})
	}
}

// splitLogs makes a crashed store whose events are in several logs.
func splitLogs(t *testing.T) (dir string, logs []string, ids []store.Identity) {
	t.Helper()
	dir, log, ids := crashedLog(t, 90)
	content, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	starts := []int{logHeaderSize}
	for _, id := range []store.Identity{ids[30], ids[60]} {
		starts = append(starts, indexOfEntry(t, content, id))
	}
	for i, start := range starts {
		end := len(content)
		if i+1 < len(starts) {
			end = starts[i+1]
		}
		part := make([]byte, logSize)
		copy(part, content[:logHeaderSize])
		copy(part[logHeaderSize:], content[start:end])
		logs = append(logs, filepath.Join(dir, logName(uint64(i+1))))
		if err := os.WriteFile(logs[i], part, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir, logs, ids
}

func TestMissingLogIsRefused(t *testing.T) {
	for name, test := range map[string]struct {
		missing []int
		want    string
	}{
		"the first":          {[]int{0}, "batch 2 is in none of its files, though its log 00002.mem goes on with batch 32"},
		"the one in between": {[]int{1}, "its log before 00003.mem is damaged: batch 32 can't be read, though batch 62"},
		"all":                {[]int{0, 1, 2}, "its log is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, logs, _ := splitLogs(t)
			for _, i := range test.missing {
				if err := os.Remove(logs[i]); err != nil {
					t.Fatal(err)
				}
			}
			wantRefused(t, dir, "it is damaged", test.want)
		})
	}
	t.Run("none", func(t *testing.T) {
		dir, _, ids := splitLogs(t)
		wantFound(t, testStore(t, dir, true), ids)
	})
}

// A log that is cut exactly where a batch ends looks like one that Badger has
// replayed and cut.
func TestLogCutBetweenBatchesIsRefused(t *testing.T) {
	dir, logs, ids := splitLogs(t)
	content, err := os.ReadFile(logs[2])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(logs[2], int64(indexOfEntry(t, content, ids[80]))); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, dir, "it is damaged", "its log 00003.mem is cut off at byte")
}

// Files that a crash leaves empty do not keep the store from being opened.
func TestEmptyFilesOfACrashAreHarmless(t *testing.T) {
	for _, name := range []string{"00002.mem", "000002.vlog", "000007.sst", keyRegistry, discardFile, stateFile} {
		t.Run(name, func(t *testing.T) {
			dir, _, ids := crashedLog(t, 20)
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			wantFound(t, testStore(t, dir, true), ids)
		})
	}
}

// The highest version in the tables never falls, even if all of their events have
// expired and are dropped: it is what proves that nothing is missing before the log.
func TestTablesKeepTheirNewestVersion(t *testing.T) {
	dir := t.TempDir()
	s := testStore(t, dir, true)
	fillStore(t, s, 90_000, time.Now().Add(time.Second))
	time.Sleep(2 * time.Second)
	newest := func() uint64 {
		return slices.Max(slices.Collect(func(yield func(uint64) bool) {
			for _, table := range s.db.Tables() {
				if !yield(table.MaxVersion) {
					return
				}
			}
		}))
	}
	caddytest.Eventually(t, "there is a table", func() bool { return len(s.db.Tables()) > 0 })
	for range 3 {
		before := newest()
		if err := s.shrink(); err != nil {
			t.Fatal(err)
		}
		if after := newest(); after < before {
			t.Errorf("the newest version fell from %d to %d", before, after)
		}
		fillStore(t, s, 90_000, time.Unix(1, 0))
	}
	crashed := t.TempDir()
	if err := os.CopyFS(crashed, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	testStore(t, crashed, true)
}

func indexOfEntry(t *testing.T, log []byte, id store.Identity) int {
	t.Helper()
	at := logHeaderSize
	for {
		entry, ok := readLogEntry(log[at:])
		if !ok {
			t.Fatal("no entry of that event")
		}
		if entry.event && slices.Equal(log[at+5:at+5+len(id)], id[:]) || entry.event && slices.Equal(log[at+9:at+9+len(id)], id[:]) {
			return at
		}
		at += entry.size
	}
}
