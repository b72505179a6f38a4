package badger

import (
	"bufio"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/instantapi/caddy-instantapi-verify/internal/faultfs"
	"github.com/instantapi/caddy-instantapi-verify/store"
)

func init() {
	children["open by Badger alone"] = func(dir string) {
		_, err := openManaged(badgerOptions(dir, true, new(logger)))
		fmt.Print(explainOpen(dir, err))
	}
	children["close without descriptors"] = closeWithoutDescriptors
}

// A page that Badger can't read of a log, after all of it was read before, is the
// disk's fault: it ends no process, and is no damage.
func TestPageThatFailsLaterIsNoDamage(t *testing.T) {
	disk := faultfs.Mount(t)
	crashedStore(t).copy(t, filepath.Join(disk.Below, "store"))
	disk.Set(faultfs.Faults{Fail: map[faultfs.Op]syscall.Errno{faultfs.Read: syscall.EIO}, Names: "*" + logSuffix})
	output, err := childCommand("open by Badger alone", filepath.Join(disk.Dir, "store")).CombinedOutput()
	if err != nil {
		t.Fatalf("opening ended the process: %v\n%.2000s", err, output)
	}
	wantNotDamaged(t, string(output), "it can't be opened: reading a mapped file", syscall.EIO.Error(), "this disk")
}

// Of a table that the manifest does not name, an error is not taken for one that a
// crash left half written: it may prove that the manifest is older.
func TestUnreadableTableBesideAnOlderManifestIsAnError(t *testing.T) {
	disk := faultfs.Mount(t)
	whole := crashedStore(t)
	dir := filepath.Join(disk.Below, "store")
	whole.copy(t, dir)
	if err := copyFile(filepath.Join(dir, tableName(9)), tables(t, dir)[0]); err != nil {
		t.Fatal(err)
	}
	disk.Set(faultfs.Faults{Fail: map[faultfs.Op]syscall.Errno{faultfs.Read: syscall.EIO}, Names: tableName(9)})
	dir = filepath.Join(disk.Dir, "store")
	first, second := askTwice(t, childCommand("open twice", dir), func() { disk.Set(faultfs.Faults{}) })
	wantNotDamaged(t, first, tableName(9), syscall.EIO.Error())
	if second != "opened" {
		t.Errorf("after the fault: %s", second)
	}
}

// closeWithoutDescriptors closes a store while no file can be opened, and waits until it
// is closed when files can.
func closeWithoutDescriptors(dir string) {
	s, err := openBadger(ctx, dir, true, lowestMinFreeSpace, func(string) (uint64, error) { return math.MaxUint64, nil })
	if err != nil {
		fmt.Print(err)
		return
	}
	var ids []byte
	for range 100 {
		id := randomID()
		ids = append(ids, id[:]...)
		if err := s.Record(ctx, id, store.Record{Status: 200}); err != nil {
			fmt.Print(err)
		}
	}
	if err := os.WriteFile(dir+".ids", ids, 0o600); err != nil {
		fmt.Print(err)
	}
	restore, err := limitFiles()
	if err != nil {
		fmt.Print(err)
		return
	}
	fmt.Printf("%v%c", s.Close(), endOfAnswer)
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	restore()
	fmt.Printf("%v%c", awaitClosed(ctx, dir), endOfAnswer)
}

func TestClosingWithoutDescriptorsWaitsForThem(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	first, second := askTwice(t, childCommand("close without descriptors", dir), func() {})
	wantNotDamaged(t, first, "closing the store in "+dir, syscall.EMFILE.Error(), "what it has recorded is in its log")
	if second != "<nil>" {
		t.Errorf("with descriptors: %s", second)
	}
	if err := openAndLook(dir); err != nil {
		t.Errorf("opened again: %v", err)
	}
}
