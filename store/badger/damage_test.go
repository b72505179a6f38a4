package badger

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	badgerdb "github.com/dgraph-io/badger/v4"
	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
	"github.com/instantapi/caddy-instantapi-verify/store"
)

// The first batch of a log has no batch before it that would tell its number.
func TestTornFirstBatchIsRepairedSilently(t *testing.T) {
	live := t.TempDir()
	s := testStore(t, live, true)
	batch := make([]entry, 300) // several pages, any of which a power cut may leave out
	for i := range batch {
		batch[i] = entry{randomID(), store.Record{DeliveredAt: time.Now(), Status: 200}}
	}
	if err := s.commit(batch); err != nil {
		t.Fatal(err)
	}
	for name, lost := range map[string][2]int{"its first page": {logHeaderSize, 4096}, "its second page": {4096, 8192}} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(live)); err != nil {
				t.Fatal(err)
			}
			logs, _ := filepath.Glob(filepath.Join(dir, "*.mem"))
			edit(t, logs[0], func(log []byte) []byte { clear(log[lost[0]:lost[1]]); return log })
			s := testStore(t, dir, true)
			wantFound(t, s, fillStore(t, s, 10, time.Time{}))
		})
	}
}

// Damage in the last batch of a log looks like the torn tail of a crash, except
// that another log was begun after it.
func TestDamageBeforeANewerLogIsRefused(t *testing.T) {
	dir, log, ids := crashedLog(t, 100)
	content, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	cut := bytes.Index(content, ids[51][:]) - 5 // where its entry begins
	if _, ok := readLogEntry(content[cut:]); !ok {
		t.Fatal("no entry begins there")
	}
	newer := filepath.Join(dir, "99999.mem")
	edit(t, log, func(content []byte) []byte { clear(content[cut:]); return content })
	if err := os.WriteFile(newer, append(content[:logHeaderSize:logHeaderSize], content[cut:]...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(newer, logSize); err != nil {
		t.Fatal(err)
	}
	if _, err := examine(ctx, dir, true, nil); err != nil {
		t.Fatalf("whole logs: %v", err)
	}
	edit(t, log, func(content []byte) []byte { clear(content[cut-70 : cut-50]); return content })
	_, err = openBadger(ctx, dir, true, lowestMinFreeSpace, freeSpace)
	caddytest.WantError(t, err, "its log before 99999.mem is damaged", "restore the directory")

	// The names are numbers, of at least five digits.
	if err := os.Rename(newer, filepath.Join(dir, "100000.mem")); err != nil {
		t.Fatal(err)
	}
	_, err = examine(ctx, dir, true, nil)
	caddytest.WantError(t, err, "its log before 100000.mem is damaged")
}

// A manifest that is cut where one of its records ends seems whole; Badger
// would delete the tables that it no longer names.
func TestManifestCutBetweenItsRecordsIsRefused(t *testing.T) {
	dir, _ := storeWithTables(t)
	manifest := filepath.Join(dir, badgerdb.ManifestFilename)
	edit(t, manifest, func(content []byte) []byte {
		for end := len(content) - 1; ; end-- {
			file := filepath.Join(t.TempDir(), "manifest")
			if err := os.WriteFile(file, content[:end], 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := os.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			_, whole, err := badgerdb.ReplayManifestFile(f, 0, badgerOptions(dir, true, nil))
			f.Close()
			if err == nil && whole == int64(end) {
				return content[:end]
			}
		}
	})
	before := tables(t, dir)
	_, err := openBadger(ctx, dir, true, lowestMinFreeSpace, freeSpace)
	caddytest.WantError(t, err, "MANIFEST names 1 of 2 tables", "restore the directory")
	if after := tables(t, dir); len(after) != len(before) {
		t.Errorf("tables were %v, are %v", before, after)
	}
}
