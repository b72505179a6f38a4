package badger

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
	"github.com/instantapi/caddy-instantapi-verify/internal/faultfs"
	"github.com/instantapi/caddy-instantapi-verify/store"
)

// told holds what a child has written so far.
type told struct {
	mu    sync.Mutex
	bytes []byte
}

func (o *told) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.bytes = append(o.bytes, b...)
	return len(b), nil
}

// ids returns the events of a child that writes their identities.
func (o *told) ids() (ids []store.Identity) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for b := o.bytes; len(b) >= 16; b = b[16:] {
		ids = append(ids, store.Identity(b[:16]))
	}
	return ids
}

// copyPlainly copies a directory in which files come and go, either slowly and
// in any order, or with the logs so late that they have probably been removed
// meanwhile.
func copyPlainly(t *testing.T, to, from string, logsLate bool) {
	t.Helper()
	files, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(to, 0o700); err != nil {
		t.Fatal(err)
	}
	rand.Shuffle(len(files), func(i, j int) { files[i], files[j] = files[j], files[i] })
	isLog := func(file os.DirEntry) bool { return filepath.Ext(file.Name()) == logSuffix }
	if logsLate {
		logs := slices.DeleteFunc(slices.Clone(files), func(file os.DirEntry) bool { return !isLog(file) })
		files = append(slices.DeleteFunc(files, isLog), logs...)
	}
	for _, file := range files {
		if logsLate && isLog(file) {
			time.Sleep(time.Second)
		}
		err := copyFile(filepath.Join(to, file.Name()), filepath.Join(from, file.Name()))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(rand.IntN(40)) * time.Millisecond)
	}
}

// A plain copy of a store in use either has all events that were acknowledged
// before the copying began, or is refused.
func TestPlainCopyOfAStoreInUseIsWholeOrRefused(t *testing.T) {
	rounds := 2
	if caddytest.Long() {
		rounds = 80
	}
	opened, refused := 0, 0
	dir := filepath.Join(t.TempDir(), "store")
	for round := range rounds {
		acknowledged, failure := new(told), new(strings.Builder)
		child := childCommand("all kinds", dir)
		child.Stdout, child.Stderr = acknowledged, failure
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		caddytest.Eventually(t, "events are recorded", func() bool { return len(acknowledged.ids()) > 0 })
		time.Sleep(time.Duration(rand.IntN(2000)) * time.Millisecond)
		copied := wholeStore{dir: filepath.Join(t.TempDir(), "copy"), ids: acknowledged.ids()}
		copyPlainly(t, copied.dir, dir, round%2 == 1)
		_ = child.Process.Kill()
		if err := child.Wait(); err == nil || err.Error() != "signal: killed" {
			t.Fatalf("round %d: %v: %.2000s", round, err, failure)
		}
		copied.writeIDs(t, copied.dir)
		output, err := childCommand("open and look", copied.dir).Output()
		switch {
		case err == nil && string(output) == "<nil>":
			opened++
		case err == nil && strings.Contains(string(output), errDamaged.Error()):
			refused++
			t.Logf("round %d: %.200s", round, output[bytes.Index(output, []byte(errDamaged.Error())):])
		default:
			t.Errorf("round %d: %v %s", round, err, output)
		}
	}
	t.Logf("%d copies opened with all events, %d were refused", opened, refused)
}

func init() {
	children["back up"] = func(dir string) {
		s, err := openBadger(ctx, dir, true, lowestMinFreeSpace, freeSpace)
		if err == nil {
			os.Stdout.WriteString("begun")
			_, err = s.Backup(ctx, dir+".backup")
		}
		if err != nil {
			os.Stderr.WriteString(err.Error())
			os.Exit(1)
		}
	}
}

// beginBackup returns once a child has begun to make a backup.
func beginBackup(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	child := childCommand("back up", dir)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("begun"))); err != nil {
		t.Fatalf("%v, %v", err, child.Wait())
	}
	return child
}

// A backup whose process is killed leaves the store whole, and leaves nothing
// behind that opens without all events.
func TestKilledBackupIsNoStore(t *testing.T) {
	rounds := 3
	if caddytest.Long() {
		rounds = 60
	}
	source := wholeStore{dir: filepath.Join(t.TempDir(), "store")}
	s := testStore(t, source.dir, false)
	ids, err := commitMany(s, 60) // in two tables
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(ids); i += 20 {
		source.ids = append(source.ids, ids[i])
	}
	source.writeIDs(t, source.dir)
	target := source.dir + ".backup"
	source.writeIDs(t, target)
	child := beginBackup(t, source.dir)
	begun := time.Now()
	if err := child.Wait(); err != nil {
		t.Fatal(err)
	}
	took := time.Since(begun)
	if err := openAndLook(target); err != nil {
		t.Fatalf("the finished backup: %v", err)
	}
	unfinished, empty := 0, 0
	for round := range rounds {
		if err := os.RemoveAll(target); err != nil {
			t.Fatal(err)
		}
		child := beginBackup(t, source.dir)
		time.Sleep(took * time.Duration(rand.IntN(1000)) / 1000)
		_ = child.Process.Kill()
		_ = child.Wait()
		if files, _ := os.ReadDir(target); len(files) == 0 {
			empty++ // or not yet made
		} else if err := openAndLook(target); err != nil {
			unfinished++
			caddytest.WantError(t, err, "it holds a backup that was not finished")
		}
		if err := openAndLook(source.dir); err != nil {
			t.Fatalf("round %d: the store itself: %v", round, err)
		}
	}
	t.Logf("%d of %d backups were unfinished, %d empty; a whole one took %s", unfinished, rounds, empty, took)
}

// A backup onto a disk that fills up ends with an error, and can't be opened as
// a store.
func TestBackupOntoAFullDiskFails(t *testing.T) {
	s := testStore(t, t.TempDir(), false)
	fillStore(t, s, 1000, time.Time{})
	disk := faultfs.Mount(t)
	for name, files := range map[string]string{"a table": "*.sst", "the manifest": "MANIFEST.new", "the mark": markFile + ".new"} {
		t.Run(name, func(t *testing.T) {
			target := filepath.Join(disk.Dir, strings.ReplaceAll(name, " ", ""))
			disk.Set(faultfs.Faults{Fail: map[faultfs.Op]syscall.Errno{faultfs.Write: syscall.ENOSPC}, Names: files})
			_, err := s.Backup(ctx, target)
			caddytest.WantError(t, err, "no space left on device")
			disk.Set(faultfs.Faults{})
			_, err = openBadger(ctx, target, true, lowestMinFreeSpace, freeSpace)
			caddytest.WantError(t, err, "it holds a backup that was not finished")
		})
	}
	if err := s.Record(ctx, randomID(), store.Record{Status: 200}); err != nil {
		t.Errorf("recording afterwards: %v", err)
	}
}
