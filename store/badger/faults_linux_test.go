package badger

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
	"github.com/instantapi/caddy-instantapi-verify/store"
)

// fillUntilRefused records events until the store has no room.
func fillUntilRefused(dir string) {
	s, err := openBadger(ctx, dir, true, lowestMinFreeSpace, freeSpace)
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
	disk := caddytest.Mount(t, "-t", "tmpfs", "-o", "size=64m", "tmpfs")
	wantFromChild(t, "fill", filepath.Join(disk, "store"), "full <nil>")
}

func TestReadOnlyFileSystemIsRefused(t *testing.T) {
	good, _ := storeWithTables(t)
	for name, dir := range map[string]string{"empty": t.TempDir(), "store": good} {
		t.Run(name, func(t *testing.T) {
			disk := caddytest.Mount(t, "--bind", dir)
			if output, err := exec.Command("mount", "-o", "remount,ro,bind", disk).CombinedOutput(); err != nil {
				caddytest.Missing(t, "remounting: %v %s", err, output)
			}
			wantRefused(t, disk, "can't be written to", "give it to the user who runs Caddy")
		})
	}
}

func init() {
	children["fill"] = fillUntilRefused
}

// Faults of whole file systems, which take root and mounts.
