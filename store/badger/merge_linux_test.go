package badger

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	badgerdb "github.com/dgraph-io/badger/v4"
	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
	"github.com/instantapi/caddy-instantapi-verify/internal/faultfs"
	"github.com/instantapi/caddy-instantapi-verify/store"
)

func init() {
	children["merge"] = mergeAndLook
	children["merge and back up"] = func(dir string) {
		s, err := openBadger(ctx, dir, true, lowestMinFreeSpace, freeSpace)
		if err == nil {
			_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
			_, err = s.Backup(ctx, dir+".backup")
		}
		fmt.Print(err)
	}
}

// roomToOpen reports free space for the two checks before Badger opens.
func roomToOpen() func(string) (uint64, error) {
	var looks atomic.Int32
	return func(path string) (uint64, error) {
		if looks.Add(1) <= 2 {
			return lowestMinFreeSpace, nil
		}
		return freeSpace(path)
	}
}

// mergeAndLook opens a store whose tables Badger merges, and looks for its
// events while merging fails and again after the fault. It ends without closing
// the store, as after a kill.
func mergeAndLook(dir string) {
	s, err := openBadger(ctx, dir, true, lowestMinFreeSpace, roomToOpen())
	if err != nil {
		fmt.Print(err)
		return
	}
	ids, err := os.ReadFile(dir + ".ids")
	if err != nil {
		fmt.Print(err)
		return
	}
	look := func() {
		for all := ids; len(all) > 0; all = all[16:] {
			if _, found, err := s.Lookup(ctx, store.Identity(all[:16])); err != nil || !found {
				fmt.Printf("looking up an event: found %t, %v; ", found, err)
				break
			}
		}
		merged := s.onTopLevel() == 0
		fmt.Printf("merged %t%c", merged, endOfAnswer)
	}
	next := bufio.NewReader(os.Stdin)
	time.Sleep(3 * time.Second) // Badger begins within a second
	look()
	_, _ = next.ReadString('\n')
	for range 300 {
		if s.onTopLevel() == 0 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	look()
}

// A merge that can't write its tables forgets nothing, and goes on when it can.
// Without the guard Badger would remove the tables that it has read.
func TestMergeThatCantWriteForgetsNothing(t *testing.T) {
	closed := closedStore(t)
	for name, test := range map[string]struct {
		op     faultfs.Op
		errno  syscall.Errno
		files  string
		merges bool // as soon as the fault has ended
	}{
		"no descriptors":    {faultfs.Create, syscall.EMFILE, "*.sst", true},
		"no rights":         {faultfs.Create, syscall.EACCES, "*.sst", true},
		"no space":          {faultfs.Setattr, syscall.ENOSPC, "*.sst", true},
		"no sync":           {faultfs.Fsync, syscall.EIO, "*.sst", true},
		"only Badger fails": {faultfs.Create, syscall.EMFILE, "00*.sst", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disk := faultfs.Mount(t)
			closed.copy(t, filepath.Join(disk.Below, "store"))
			disk.Set(faultfs.Faults{Fail: map[faultfs.Op]syscall.Errno{test.op: test.errno}, Names: test.files})
			dir := filepath.Join(disk.Dir, "store")
			first, second := askTwice(t, childCommand("merge", dir), func() { disk.Set(faultfs.Faults{}) })
			if first != "merged false" {
				t.Errorf("with the fault: %s", first)
			}
			if want := fmt.Sprint("merged ", test.merges); second != want {
				t.Errorf("after the fault: %s, want %s", second, want)
			}
			if err := openAndLook(dir); err != nil {
				t.Errorf("opened again: %v", err)
			}
		})
	}
}

// Without room a merge waits, and writes nothing that would end the process.
func TestMergeWaitsForRoom(t *testing.T) {
	disk := caddytest.Mount(t, "-t", "tmpfs", "-o", "size=48m", "tmpfs")
	dir := filepath.Join(disk, "store")
	closedStore(t).copy(t, dir)
	removeBallast := fillUp(t, disk, 256<<10)
	first, second := askTwice(t, childCommand("merge", dir), removeBallast)
	if first != "merged false" || second != "merged true" {
		t.Errorf("got %q without room, %q with it", first, second)
	}
	if err := openAndLook(dir); err != nil {
		t.Errorf("opened again: %v", err)
	}
}

// When the manifest can't be written, the open store is still whole, and a
// backup saves it. The log says so once.
func TestManifestThatCantBeWrittenCallsForABackup(t *testing.T) {
	disk := faultfs.Mount(t)
	dir := filepath.Join(disk.Dir, "store")
	closed := closedStore(t)
	closed.copy(t, filepath.Join(disk.Below, "store"))
	closed.writeIDs(t, dir+".backup")
	disk.Set(faultfs.Faults{Fail: map[faultfs.Op]syscall.Errno{faultfs.Fsync: syscall.EIO}, Names: badgerdb.ManifestFilename})
	child := childCommand("merge and back up", dir)
	logged, output := new(caddytest.Output), new(strings.Builder)
	child.Stderr, child.Stdout = logged, output
	stdin, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = child.Process.Kill() })
	caddytest.Eventually(t, "a backup is called for", func() bool {
		return strings.Contains(logged.String(), "make a backup of it")
	})
	stdin.Close()
	err = child.Wait()
	disk.Set(faultfs.Faults{})
	if err != nil || output.String() != "<nil>" {
		t.Fatalf("making a backup: %v %s\n%.2000s", err, output, logged)
	}
	if n := strings.Count(logged.String(), "make a backup of it"); n != 1 {
		t.Errorf("a backup is called for %d times:\n%.2000s", n, logged)
	}
	if n := strings.Count(logged.String(), "\n"); n > 10 {
		t.Errorf("%d lines are logged:\n%.2000s", n, logged)
	}
	if err := openAndLook(dir + ".backup"); err != nil {
		t.Errorf("the backup: %v", err)
	}
}

// closedStore returns a store of two tables that Badger merges once it is open.
func closedStore(t *testing.T) wholeStore {
	t.Helper()
	dir, ids := storeWithTables(t)
	return wholeStore{dir, ids}
}
