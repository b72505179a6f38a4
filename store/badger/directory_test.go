package badger

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	badgerdb "github.com/dgraph-io/badger/v4"
	"github.com/instantapi/caddy-instantapi-verify/store"
)

// contents returns a digest of each file, but for Badger's lock.
func contents(t *testing.T, path string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(path, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Name() == "LOCK" {
			return err
		}
		files[path] = entry.Type().String()
		if entry.Type().IsRegular() {
			content, err := os.ReadFile(path)
			files[path] = fmt.Sprintf("%d bytes, %x", len(content), sha256.Sum256(content))
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// wantUnchanged compares what is in a directory with what was.
func wantUnchanged(t *testing.T, before, after map[string]string) {
	t.Helper()
	for path, content := range before {
		if now, there := after[path]; !there {
			t.Errorf("%s was removed", filepath.Base(path))
		} else if now != content {
			t.Errorf("%s was changed: %s, now %s", filepath.Base(path), content, now)
		}
	}
	for path, content := range after {
		if _, there := before[path]; !there {
			t.Errorf("%s was made: %s", filepath.Base(path), content)
		}
	}
}

// children are what this test binary does instead of testing, in a process of
// its own, where what it does may end that.
var children = map[string]func(dir string){
	"open": func(dir string) {
		s, err := openBadger(dir, true, lowestMinFreeSpace, freeSpace)
		if err != nil {
			fmt.Print(err)
			return
		}
		fmt.Print("opened")
		s.Close()
	},
}

func childCommand(role, dir string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childRole+"="+role, childDir+"="+dir)
	return cmd
}

// wantRefused checks that a directory is not opened, and left as it is. Some
// damage makes Badger panic in a goroutine of its own, so it takes a child.
func wantRefused(t *testing.T, dir string, wants ...string) {
	t.Helper()
	wantRefusedBy(t, childCommand("open", dir), dir, wants...)
}

func wantRefusedBy(t *testing.T, child *exec.Cmd, dir string, wants ...string) {
	t.Helper()
	before := contents(t, dir)
	output, err := child.Output()
	if err != nil {
		crash := err.Error()
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			crash += "\n" + string(exit.Stderr[:min(len(exit.Stderr), 2000)])
		}
		t.Errorf("opening ended the process: %s", crash)
	} else {
		wantError(t, errors.New(string(output)), wants...)
	}
	wantUnchanged(t, before, contents(t, dir))
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

func TestForeignAndDamagedDirectoriesAreRefused(t *testing.T) {
	good, ids := storeWithTables(t)
	s := testStore(t, good, true)
	wantFound(t, s, ids)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	write := func(t *testing.T, file, content string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	remove := func(t *testing.T, file string) {
		t.Helper()
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	manifest := func(dir string) string { return filepath.Join(dir, badgerdb.ManifestFilename) }

	for name, test := range map[string]struct {
		prepare func(t *testing.T, dir string) // a new directory
		wants   []string
	}{
		"a folder of somebody's": {func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "thesis.txt"), "the only copy")
		}, []string{"holds something else (thesis.txt)", "give an empty or a new directory"}},
		"another's database": {func(t *testing.T, dir string) {
			db, err := badgerdb.Open(badgerdb.DefaultOptions(dir).WithLogger(nil).WithMemTableSize(8 << 20).WithValueLogFileSize(1 << 20))
			if err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			os.Remove(filepath.Join(dir, "LOCK"))
		}, []string{"holds something else", "give an empty or a new directory"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			test.prepare(t, dir)
			wantRefused(t, dir, test.wants...)
		})
	}

	damaged := []string{"damaged", "restore the directory from a backup, or move it away"}
	for name, test := range map[string]struct {
		damage func(t *testing.T, dir string) // a copy of the store
		wants  []string
	}{
		"another version": {func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, markFile), "instantapi_verify store, format 2\n")
		}, []string{"another version", "format 2", "use that version, or another path"}},
		"mark is missing": {func(t *testing.T, dir string) {
			remove(t, filepath.Join(dir, markFile))
		}, []string{"holds something else"}},
		"manifest is missing": {func(t *testing.T, dir string) { remove(t, manifest(dir)) },
			append(damaged, "MANIFEST is missing beside")},
		"manifest is empty": {func(t *testing.T, dir string) { write(t, manifest(dir), "") }, damaged},
		"manifest is garbage": {func(t *testing.T, dir string) {
			write(t, manifest(dir), strings.Repeat("garbage", 20))
		}, damaged},
		"manifest is zeros": {func(t *testing.T, dir string) {
			edit(t, manifest(dir), func(b []byte) []byte { clear(b); return b })
		}, damaged},
		"manifest has a flipped byte": {func(t *testing.T, dir string) {
			edit(t, manifest(dir), func(b []byte) []byte { b[len(b)-3] ^= 0xff; return b })
		}, damaged},
		"manifest is cut off": {func(t *testing.T, dir string) {
			edit(t, manifest(dir), func(b []byte) []byte { return b[:len(b)-3] })
		}, damaged},
		"manifest is a header alone": {func(t *testing.T, dir string) {
			edit(t, manifest(dir), func(b []byte) []byte { return b[:8] })
		}, damaged},
		"table is missing": {func(t *testing.T, dir string) { remove(t, tables(t, dir)[0]) }, damaged},
		"table is empty":   {func(t *testing.T, dir string) { write(t, tables(t, dir)[0], "") }, damaged},
		"table is zeros": {func(t *testing.T, dir string) {
			edit(t, tables(t, dir)[0], func(b []byte) []byte { clear(b); return b })
		}, damaged},
		"table is cut off": {func(t *testing.T, dir string) {
			edit(t, tables(t, dir)[0], func(b []byte) []byte { return b[:len(b)/2] })
		}, damaged},
		"table's end has a flipped byte": {func(t *testing.T, dir string) {
			edit(t, tables(t, dir)[0], func(b []byte) []byte { b[len(b)-6] ^= 0xff; return b })
		}, damaged},
		"table's data has a flipped byte": {func(t *testing.T, dir string) {
			edit(t, tables(t, dir)[0], func(b []byte) []byte { b[len(b)/3] ^= 0xff; return b })
		}, damaged},
		"table's index has a flipped byte": {func(t *testing.T, dir string) {
			edit(t, tables(t, dir)[0], func(b []byte) []byte { b[len(b)-60] ^= 0xff; return b })
		}, damaged},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(good)); err != nil {
				t.Fatal(err)
			}
			test.damage(t, dir)
			wantRefused(t, dir, test.wants...)
		})
	}

	t.Run("a file", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "file")
		write(t, file, "content")
		wantRefused(t, file, "can't be made", "give a path")
	})
	t.Run("below a file", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "file")
		write(t, file, "content")
		_, err := openBadger(filepath.Join(file, "store"), true, lowestMinFreeSpace, freeSpace)
		wantError(t, err, "can't be made", "give a path")
	})
}

// TestMain is not an init, because all of those must have run before a child does.
func TestMain(m *testing.M) {
	if child := children[os.Getenv(childRole)]; child != nil {
		child(os.Getenv(childDir))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// Nor does one that comes while the first moves its files about.
func TestASecondServerIsRefusedWhileTheFirstCompacts(t *testing.T) {
	dir := t.TempDir()
	s := testStore(t, dir, false)
	done := make(chan []store.Identity)
	go func() { done <- fillStore(t, s, 120_000, time.Time{}) }()
	for attempts := 0; ; attempts++ {
		if second, err := openBadger(dir, true, lowestMinFreeSpace, freeSpace); !errors.Is(err, errInUse) {
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

// The environment variables that make a child.
const (
	childRole = "INSTANTAPI_VERIFY_TEST_CHILD"
	childDir  = "INSTANTAPI_VERIFY_TEST_CHILD_DIR"
)
