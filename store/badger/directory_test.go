package badger

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	badgerdb "github.com/dgraph-io/badger/v4"
	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
	"github.com/instantapi/caddy-instantapi-verify/store"
)

// A path to other files does not turn their directory into a store.
func TestForeignDirectoryIsRefused(t *testing.T) {
	wants := []string{"holds something else", "give a new or empty directory"}
	t.Run("a folder of somebody's", func(t *testing.T) {
		dir := t.TempDir()
		caddytest.WriteFile(t, filepath.Join(dir, "thesis.txt"), "the only copy")
		wantRefused(t, dir, append(wants, "(thesis.txt)")...)
	})
	t.Run("another's database", func(t *testing.T) {
		dir := t.TempDir()
		db, err := badgerdb.Open(badgerdb.DefaultOptions(dir).WithLogger(nil).WithMemTableSize(8 << 20).WithValueLogFileSize(1 << 20))
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		wantRefused(t, dir, wants...)
	})
	t.Run("a store without its mark", func(t *testing.T) {
		dir, _ := storeWithTables(t)
		if err := os.Remove(filepath.Join(dir, markFile)); err != nil {
			t.Fatal(err)
		}
		wantRefused(t, dir, wants...)
	})
	t.Run("a store of another version", func(t *testing.T) {
		dir, _ := storeWithTables(t)
		caddytest.WriteFile(t, filepath.Join(dir, markFile), "instantapi_verify store, format 2\n")
		wantRefused(t, dir, "another version", "format 2", "use that version, or another path")
	})
}

func TestFileIsRefusedAsADirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	caddytest.WriteFile(t, file, "content")
	wantRefused(t, file, "can't be made", "give a path")
	_, err := openBadger(ctx, filepath.Join(file, "store"), true, lowestMinFreeSpace, freeSpace)
	caddytest.WantError(t, err, "can't be made", "give a path")
}

// A directory whose content is wrong is refused, with the remedy, and is left as it
// is: it may be all that is left of what was acknowledged.
func TestDamagedDirectoryIsRefused(t *testing.T) {
	good, ids := storeWithTables(t)
	s := testStore(t, good, true)
	wantFound(t, s, ids)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	manifest := func(_ *testing.T, dir string) string { return filepath.Join(dir, badgerdb.ManifestFilename) }
	table := func(t *testing.T, dir string) string { return tables(t, dir)[0] }
	flip := func(at func(size int) int) func([]byte) []byte {
		return func(b []byte) []byte { b[at(len(b))] ^= 0xff; return b }
	}
	for name, test := range map[string]struct {
		file   func(t *testing.T, dir string) string
		damage func(content []byte) []byte // nil: the file is removed
	}{
		"manifest is missing":              {manifest, nil},
		"manifest is empty":                {manifest, func([]byte) []byte { return nil }},
		"manifest is garbage":              {manifest, func([]byte) []byte { return bytes.Repeat([]byte("garbage"), 20) }},
		"manifest is zeros":                {manifest, func(b []byte) []byte { clear(b); return b }},
		"manifest has a flipped byte":      {manifest, flip(func(size int) int { return size - 3 })},
		"manifest is cut off":              {manifest, func(b []byte) []byte { return b[:len(b)-3] }},
		"manifest is a header alone":       {manifest, func(b []byte) []byte { return b[:8] }},
		"table is missing":                 {table, nil},
		"table is empty":                   {table, func([]byte) []byte { return nil }},
		"table is zeros":                   {table, func(b []byte) []byte { clear(b); return b }},
		"table is cut off":                 {table, func(b []byte) []byte { return b[:len(b)/2] }},
		"table's end has a flipped byte":   {table, flip(func(size int) int { return size - 6 })},
		"table's data has a flipped byte":  {table, flip(func(size int) int { return size / 3 })},
		"table's index has a flipped byte": {table, flip(func(size int) int { return size - 60 })},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(good)); err != nil {
				t.Fatal(err)
			}
			file := test.file(t, dir)
			if test.damage != nil {
				edit(t, file, test.damage)
			} else if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			wantRefused(t, dir, "damaged", "restore the directory from a backup, or move it away")
		})
	}
}

// A second server is refused even while the first one is moving its files.
func TestASecondServerIsRefusedWhileTheFirstCompacts(t *testing.T) {
	dir := t.TempDir()
	s := testStore(t, dir, false)
	done := make(chan []store.Identity)
	go func() { done <- fillStore(t, s, 120_000, time.Time{}) }()
	for attempts := 0; ; attempts++ {
		if second, err := openBadger(ctx, dir, true, lowestMinFreeSpace, freeSpace); !errors.Is(err, errInUse) {
			t.Fatalf("attempt %d: got %v %v, want errInUse", attempts, second, err)
		}
		select {
		case ids := <-done:
			if len(tables(t, dir)) == 0 {
				t.Error("there is no table yet, so this proves nothing")
			}
			t.Logf("%d attempts", attempts+1)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			wantFound(t, testStore(t, dir, true), ids)
			return
		case <-time.After(time.Millisecond):
		}
	}
}

// storeWithTables makes a store of two tables, and returns its directory.
func storeWithTables(t *testing.T) (dir string, ids []store.Identity) {
	t.Helper()
	dir = t.TempDir()
	for range 2 {
		s := testStore(t, dir, true)
		ids = append(ids, fillStore(t, s, 5000, time.Time{})...)
		if err := s.Close(); err != nil { // which writes a table
			t.Fatal(err)
		}
	}
	return dir, ids
}

func tables(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	if err != nil || len(files) == 0 {
		t.Fatalf("tables are %v, %v", files, err)
	}
	return files
}
