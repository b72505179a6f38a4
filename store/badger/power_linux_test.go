package badger

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
	"github.com/instantapi/caddy-instantapi-verify/store"
	"golang.org/x/sys/unix"
)

func init() {
	children["record"] = func(dir string) { recordAndTell(dir, true) }
	children["record unsynced"] = func(dir string) { recordAndTell(dir, false) }
}

// After a power cut every acknowledged event is remembered.
func TestPowerLoss(t *testing.T) {
	for name, isNew := range map[string]bool{
		"new store": true,
		"old store": false, // made long before
	} {
		t.Run(name, func(t *testing.T) {
			disk := newDisk(t)
			if !isNew {
				disk.makeStore(true)
			}
			acknowledged := disk.recordUntilThePowerFails("record")
			disk.remount()
			wantFound(t, testStore(t, disk.store(), true), acknowledged)
			t.Logf("%d acknowledged events", len(acknowledged))
		})
	}
}

// Without sync a power cut may make the store forget events, and even refuse to
// open, but it never makes other events known.
func TestPowerLossWithoutSync(t *testing.T) {
	disk := newDisk(t)
	disk.makeStore(false)
	acknowledged := disk.recordUntilThePowerFails("record unsynced")
	disk.remount()
	s, err := openBadger(ctx, disk.store(), false, lowestMinFreeSpace, freeSpace)
	if err != nil {
		t.Logf("without sync the store does not open: %v", err)
		return
	}
	defer s.Close()
	forgotten := 0
	for _, id := range acknowledged {
		if _, found, _ := s.Lookup(ctx, id); !found {
			forgotten++
		}
	}
	t.Logf("without sync %d of %d acknowledged events are forgotten", forgotten, len(acknowledged))
	if _, found, err := s.Lookup(ctx, randomID()); found || err != nil {
		t.Errorf("an event that was never recorded: found %t, %v", found, err)
	}
}

// disk is an ext4 file system in a file. Its power can be cut by ext4's own means:
// from that moment on nothing more gets to the disk, not even its journal.
type disk struct {
	t     *testing.T
	image string // the file
	dir   string // where it is mounted
}

func newDisk(t *testing.T) *disk {
	t.Helper()
	d := &disk{t: t, image: filepath.Join(t.TempDir(), "image")}
	caddytest.WriteFile(t, d.image, "")
	if err := os.Truncate(d.image, 256<<20); err != nil {
		t.Fatal(err)
	}
	if output, err := exec.Command("mkfs.ext4", "-q", "-E", "lazy_itable_init=0", d.image).CombinedOutput(); err != nil {
		caddytest.Missing(t, "mkfs.ext4: %v %s", err, output)
	}
	// Ten minutes between ext4's own syncs, so that it does none during the test.
	d.dir = caddytest.Mount(t, "-o", "loop,commit=600", d.image)
	return d
}

// store returns the store's directory.
func (d *disk) store() string { return filepath.Join(d.dir, "store") }

// makeStore makes an empty store and syncs it to the disk.
func (d *disk) makeStore(sync bool) {
	d.t.Helper()
	if err := testStore(d.t, d.store(), sync).Close(); err != nil {
		d.t.Fatal(err)
	}
	unix.Sync()
}

// recordUntilThePowerFails has a child record events, cuts the power, and returns
// the events that were acknowledged by then.
func (d *disk) recordUntilThePowerFails(child string) []store.Identity {
	d.t.Helper()
	cmd := childCommand(child, d.store())
	told := new(acknowledgments)
	cmd.Stdout = told
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	time.Sleep(1500 * time.Millisecond)
	// ext4 may still report success for a sync that is under way at the cut;
	// after a real cut nothing is reported.
	before := told.length.Load()
	cutErr := d.cutPower()
	time.Sleep(100 * time.Millisecond)
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // it was killed
	if cutErr != nil {
		caddytest.Missing(d.t, "cutting the power: %v", cutErr)
	}
	ids := told.identities(before)
	if len(ids) == 0 {
		d.t.Fatal("nothing was acknowledged, so this proves nothing")
	}
	return ids
}

func (d *disk) cutPower() error {
	const (
		shutdown   = 0x8004587d // EXT4_IOC_SHUTDOWN
		noLogFlush = 2          // EXT4_GOING_FLAGS_NOLOGFLUSH
	)
	root, err := os.Open(d.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return unix.IoctlSetPointerInt(int(root.Fd()), shutdown, noLogFlush)
}

// remount is what happens when the power is back.
func (d *disk) remount() {
	d.t.Helper()
	if err := unix.Unmount(d.dir, 0); err != nil {
		d.t.Fatal(err)
	}
	d.dir = caddytest.Mount(d.t, "-o", "loop", d.image)
}

// acknowledgments collects the identities that a child writes.
type acknowledgments struct {
	bytes  bytes.Buffer
	length atomic.Int64
}

// Write implements io.Writer. It has one caller at a time.
func (a *acknowledgments) Write(p []byte) (int, error) {
	defer a.length.Add(int64(len(p)))
	return a.bytes.Write(p)
}

// identities returns those in the first bytes. The child must have ended.
func (a *acknowledgments) identities(length int64) (ids []store.Identity) {
	reader := bytes.NewReader(a.bytes.Bytes()[:length])
	for {
		var id store.Identity
		if _, err := io.ReadFull(reader, id[:]); err != nil {
			return ids
		}
		ids = append(ids, id)
	}
}

// recordAndTell records events and writes the identity of each that is
// acknowledged, until the process is killed.
func recordAndTell(dir string, sync bool) {
	s, err := openBadger(ctx, dir, sync, lowestMinFreeSpace, freeSpace)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for range 16 {
		go func() {
			for {
				id := randomID()
				if s.Record(ctx, id, store.Record{Status: 200}) == nil {
					os.Stdout.Write(id[:]) // at once: less than a pipe's buffer
				}
			}
		}()
	}
	time.Sleep(time.Minute)
}
