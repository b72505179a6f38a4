package badger

import (
	"fmt"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/instantapi/caddy-instantapi-verify/store"
)

func init() { children["exhaust"] = recordWithoutDescriptors }

// limitFiles lets the process open no more files, until the returned function is
// called.
func limitFiles() (restore func(), err error) {
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		return nil, err
	}
	limited := before
	limited.Cur = 3 // numbers, all of which are in use
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limited); err != nil {
		return nil, err
	}
	return func() { _ = unix.Setrlimit(unix.RLIMIT_NOFILE, &before) }, nil
}

// recordWithoutDescriptors records events for which Badger would need another log
// while no file can be opened, then again when files can.
func recordWithoutDescriptors(dir string) {
	s, err := openBadger(ctx, dir, false, lowestMinFreeSpace, freeSpace)
	if err != nil {
		fmt.Print(err)
		return
	}
	restore, err := limitFiles()
	if err != nil {
		fmt.Print(err)
		return
	}
	var mu sync.Mutex
	var acknowledged []store.Identity
	var refused error
	fill := func(events int) {
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				for range events / 64 {
					id := randomID()
					err := s.Record(ctx, id, store.Record{Status: 200})
					mu.Lock()
					if err == nil {
						acknowledged = append(acknowledged, id)
					} else {
						refused = err
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()
	}
	fill(200_000)
	if refused == nil {
		fmt.Print("nothing was refused, so this proves nothing; ")
	}
	restore()
	refused = nil
	fill(100_000)
	for _, id := range acknowledged {
		if _, found, err := s.Lookup(ctx, id); !found || err != nil {
			fmt.Print("an acknowledged event is forgotten: ", err)
			return
		}
	}
	fmt.Print("refused at last: ", refused, ", closed: ", s.Close())
}

// A process that can open no more files does not end, and records again as soon as
// it can.
func TestRunningOutOfFilesDoesNotEndTheProcess(t *testing.T) {
	wantFromChild(t, "exhaust", t.TempDir(), "refused at last: <nil>, closed: <nil>")
}
