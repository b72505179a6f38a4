package badger

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
	"github.com/instantapi/caddy-instantapi-verify/store"
)

// A backup of a store in use has all that was acknowledged before it began.
func TestBackupHasAllEventsRecordedBefore(t *testing.T) {
	s := testStore(t, t.TempDir(), false)
	expires := time.Now().Add(time.Hour).Truncate(time.Second)
	ids := fillStore(t, s, 70_000, expires) // in a table and in the log
	forgotten := fillStore(t, s, 1, time.Time{})[0]
	if err := s.Forget(ctx, forgotten); err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				fillStore(t, s, 1000, time.Time{})
			}
		}
	}()
	target := filepath.Join(t.TempDir(), "made", "for it")
	report, err := s.Backup(ctx, target)
	close(stop)
	<-stopped
	if err != nil {
		t.Fatal(err)
	}
	copied := testStore(t, target, true)
	wantFound(t, copied, ids)
	if rec, _, _ := copied.Lookup(ctx, ids[0]); !rec.ExpiresAt.Equal(expires) || rec.Status != 200 {
		t.Errorf("got %+v, want one that expires at %s", rec, expires)
	}
	if _, found, err := copied.Lookup(ctx, forgotten); found || err != nil {
		t.Errorf("forgotten event: got %t %v", found, err)
	}
	if got := copied.countEvents(); got != report.Events || report.Events < int64(len(ids)) || report.Bytes < 32*report.Events {
		t.Errorf("the copy has %d events, the report is %+v", got, report)
	}
	wantFound(t, copied, fillStore(t, copied, 10, time.Time{}))
}

func TestBackupIsRefusedWhereAnythingElseIs(t *testing.T) {
	dir := t.TempDir()
	s := testStore(t, dir, true)
	used := t.TempDir()
	if err := os.WriteFile(filepath.Join(used, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Skip(err)
	}
	for name, target := range map[string]string{
		"relative":           "backup",
		"not empty":          used,
		"the store":          dir,
		"in the store":       filepath.Join(dir, "a", "b"),
		"in the store, link": filepath.Join(link, "a"),
		"a file":             filepath.Join(used, "file"),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := s.Backup(ctx, target); !errors.Is(err, store.ErrBackupDirectory) {
				t.Errorf("got %v, want ErrBackupDirectory", err)
			}
		})
	}
}

// A backup that was not finished is no store.
func TestUnfinishedBackupIsRefused(t *testing.T) {
	s := testStore(t, t.TempDir(), true)
	fillStore(t, s, 100, time.Time{})
	target := t.TempDir()
	if _, err := s.Backup(ctx, target); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(target, markFile)); err != nil { // what is written last
		t.Fatal(err)
	}
	_, err := openBadger(ctx, target, true, lowestMinFreeSpace, freeSpace)
	caddytest.WantError(t, err, "it holds something else")
}

// A store with a damaged table makes no backup, which would lack the table's
// events.
func TestBackupOfADamagedStoreFails(t *testing.T) {
	dir, _ := storeWithTables(t)
	s := testStore(t, dir, true)
	file, err := os.OpenFile(tables(t, dir)[0], os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteAt(make([]byte, 4096), 8192); err != nil {
		t.Fatal(err)
	}
	target := t.TempDir()
	_, err = s.Backup(ctx, target)
	caddytest.WantError(t, err, "it is damaged: table")
	if exists(filepath.Join(target, markFile)) {
		t.Error("the backup has its mark")
	}
}
