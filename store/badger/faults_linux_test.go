package badger

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/store"
	"golang.org/x/sys/unix"
)

// fillUntilRefused records events until the store has no room.
func fillUntilRefused(dir string) {
	s, err := openBadger(dir, true, lowestMinFreeSpace, freeSpace)
	if err != nil {
		fmt.Print(err)
		return
	}
	var last sync.Map
	var wg sync.WaitGroup
	for i := range 512 {
		wg.Go(func() {
			for {
				if err := s.Record(ctx, randomID(), store.Record{Status: 200}); err != nil {
					last.Store(i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	last.Range(func(_, err any) bool {
		if !errors.Is(err.(error), errNoSpace) {
			fmt.Println(err)
		}
		return true
	})
	time.Sleep(time.Second) // for what is written in the background
	fmt.Print("full ", s.Close())
}

// A disk that events fill up ends in errNoSpace, and not in the SIGBUS that a
// write to a mapped file without room is.
func TestFillingTheDiskDoesNotEndTheProcess(t *testing.T) {
	disk := mount(t, "-t", "tmpfs", "-o", "size=64m", "tmpfs")
	cmd := childCommand("fill", filepath.Join(disk, "store"))
	output, errput := new(bytes.Buffer), new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = output, errput
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(3*time.Minute, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	if err := cmd.Wait(); err != nil || output.String() != "full <nil>" {
		t.Errorf("child ended with %v and wrote %.500s\n%.2000s", err, output, errput)
	}
}

// recordAndTell records events and writes the identity of each that is
// acknowledged, until the process is killed.
func recordAndTell(dir string, sync bool) {
	s, err := openBadger(dir, sync, lowestMinFreeSpace, freeSpace)
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

// After a power cut every acknowledged event is remembered. The cut is ext4's
// own: from that moment on nothing more gets to the disk, not even its journal.
func TestPowerLoss(t *testing.T) {
	const (
		shutdown   = 0x8004587d // EXT4_IOC_SHUTDOWN
		noLogFlush = 2          // EXT4_GOING_FLAGS_NOLOGFLUSH
	)
	for name, test := range map[string]struct{ sync, isNew bool }{
		"new store":    {true, true},
		"old store":    {true, false}, // made long before
		"without sync": {false, false},
	} {
		sync := test.sync
		t.Run(name, func(t *testing.T) {
			image := filepath.Join(t.TempDir(), "image")
			if err := os.WriteFile(image, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(image, 256<<20); err != nil {
				t.Fatal(err)
			}
			if output, err := exec.Command("mkfs.ext4", "-q", "-E", "lazy_itable_init=0", image).CombinedOutput(); err != nil {
				missing(t, fmt.Sprintf("mkfs.ext4: %v %s", err, output))
			}
			disk := mount(t, "-o", "loop,commit=600", image)
			if !test.isNew {
				if err := testStore(t, filepath.Join(disk, "store"), sync).Close(); err != nil {
					t.Fatal(err)
				}
				unix.Sync()
			}
			role := "record"
			if !sync {
				role = "record unsynced"
			}
			cmd := childCommand(role, filepath.Join(disk, "store"))
			told := new(bytes.Buffer)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			read := make(chan struct{})
			var acknowledged atomic.Int64 // bytes of identities
			go func() {
				defer close(read)
				chunk := make([]byte, 4<<10)
				for {
					n, err := out.Read(chunk)
					told.Write(chunk[:n])
					acknowledged.Add(int64(n))
					if err != nil {
						return
					}
				}
			}()
			time.Sleep(1500 * time.Millisecond)

			root, err := os.Open(disk)
			if err != nil {
				t.Fatal(err)
			}
			// Of a sync that is under way at the cut, ext4 may still say that it
			// succeeded; a real cut says nothing any more.
			before := acknowledged.Load()
			cutErr := unix.IoctlSetPointerInt(int(root.Fd()), shutdown, noLogFlush)
			root.Close()
			time.Sleep(100 * time.Millisecond)
			_ = cmd.Process.Kill()
			<-read
			_ = cmd.Wait()
			if cutErr != nil {
				missing(t, fmt.Sprintf("cutting the power: %v", cutErr))
			}
			if err := unix.Unmount(disk, 0); err != nil {
				t.Fatal(err)
			}
			var ids []store.Identity
			for b := told.Bytes()[:before]; len(b) >= 16; b = b[16:] {
				ids = append(ids, store.Identity(b[:16]))
			}
			if len(ids) == 0 {
				t.Fatal("nothing was acknowledged")
			}

			disk = mount(t, "-o", "loop", image)
			s, err := openBadger(filepath.Join(disk, "store"), sync, lowestMinFreeSpace, freeSpace)
			if err != nil && !sync {
				t.Logf("without sync the store does not open: %v", err)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if sync {
				wantFound(t, s, ids)
				t.Logf("%d acknowledged events", len(ids))
				return
			}
			forgotten := 0
			for _, id := range ids {
				if _, found, _ := s.Lookup(ctx, id); !found {
					forgotten++
				}
			}
			t.Logf("without sync %d of %d acknowledged events are forgotten", forgotten, len(ids))
		})
	}
}

func TestReadOnlyFileSystemIsRefused(t *testing.T) {
	good, _ := storeWithTables(t)
	for name, dir := range map[string]string{"empty": t.TempDir(), "store": good} {
		t.Run(name, func(t *testing.T) {
			disk := mount(t, "--bind", dir)
			if output, err := exec.Command("mount", "-o", "remount,ro,bind", disk).CombinedOutput(); err != nil {
				missing(t, fmt.Sprintf("remounting: %v %s", err, output))
			}
			wantRefused(t, disk, "can't be written to", "give it to the user who runs Caddy")
		})
	}
}

func init() {
	children["fill"] = fillUntilRefused
	children["record"] = func(dir string) { recordAndTell(dir, true) }
	children["record unsynced"] = func(dir string) { recordAndTell(dir, false) }
}

// Faults of whole file systems, which take root and mounts.

// mount mounts something for the length of the test, and returns where.
func mount(t *testing.T, args ...string) (dir string) {
	t.Helper()
	if os.Getuid() != 0 {
		missing(t, "mounting takes root")
	}
	dir = t.TempDir()
	if output, err := exec.Command("mount", append(args, dir)...).CombinedOutput(); err != nil {
		missing(t, fmt.Sprintf("mount %s: %v %s", strings.Join(args, " "), err, output))
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}
