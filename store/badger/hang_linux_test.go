package badger

import (
	"context"
	"errors"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
	"github.com/instantapi/caddy-instantapi-verify/internal/faultfs"
	"github.com/instantapi/caddy-instantapi-verify/store"
)

// within runs a call and checks that it ends in time. The machine may be busy, so
// there is some time more.
func within(t *testing.T, limit time.Duration, what string, call func()) {
	t.Helper()
	ended := make(chan struct{})
	start := time.Now()
	go func() {
		defer close(ended)
		call()
	}()
	select {
	case <-ended:
		t.Logf("%s took %v", what, time.Since(start))
	case <-time.After(limit + 3*time.Second):
		t.Errorf("%s takes longer than %v", what, limit)
	}
}

// askHanging calls every method of a store whose disk hangs, and wants each
// answer within a limit.
func askHanging(t *testing.T, s *database, known store.Identity, limit time.Duration) {
	t.Helper()
	within(t, limit, "looking up an unknown event", func() {
		if _, found, err := s.Lookup(ctx, randomID()); found || !errors.Is(err, store.ErrCannotRecord) {
			t.Errorf("unknown event: got %t %v, want ErrCannotRecord", found, err)
		}
	})
	within(t, limit, "looking up a known event", func() {
		if _, found, err := s.Lookup(ctx, known); !found || err != nil {
			t.Errorf("known event: got %t %v", found, err)
		}
	})
	within(t, limit, "recording", func() {
		if err := s.Record(ctx, randomID(), store.Record{Status: 200}); !errors.Is(err, errHanging) {
			t.Errorf("recording: got %v", err)
		}
	})
	within(t, limit, "forgetting", func() {
		if err := s.Forget(ctx, known); !errors.Is(err, errHanging) {
			t.Errorf("forgetting: got %v", err)
		}
	})
	within(t, limit, "reading the statistics", func() {
		if _, err := s.Statistics(ctx); err != nil && !errors.Is(err, errHanging) {
			t.Errorf("statistics: got %v", err)
		}
	})
	short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	within(t, 0, "recording with a context that ends", func() {
		if err := s.Record(short, randomID(), store.Record{Status: 200}); err == nil {
			t.Error("recording: got no error")
		}
	})
}

// Whatever a hung disk leaves undone, each call is answered in time, and at
// once as soon as one has waited in vain. When the disk answers again
// everything works.
func TestHungDiskIsAnsweredInTime(t *testing.T) {
	for name, hang := range map[string][]faultfs.Op{
		"syncs":      {faultfs.Fsync},
		"writes":     {faultfs.Write, faultfs.Fsync},
		"everything": faultfs.All,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disk := faultfs.Mount(t)
			s := testStore(t, filepath.Join(disk.Dir, "store"), true)
			known := randomID()
			if err := s.Record(ctx, known, store.Record{Status: 200}); err != nil {
				t.Fatal(err)
			}
			disk.Set(faultfs.Faults{Hang: hang})
			time.Sleep(2 * lookInterval)
			if err := s.Record(ctx, randomID(), store.Record{Status: 200}); !errors.Is(err, errHanging) {
				t.Errorf("recording: got %v", err)
			}
			askHanging(t, s, known, patience)
			askHanging(t, s, known, 0)
			stuck := disk.Hanging()
			for range 100 {
				_, _, _ = s.Lookup(ctx, randomID())
				_ = s.Record(ctx, randomID(), store.Record{Status: 200})
				_, _ = s.Statistics(ctx)
			}
			if n := disk.Hanging(); n > stuck+2 {
				t.Errorf("%d operations hang after 300 more calls, %d before", n, stuck)
			}
			disk.Set(faultfs.Faults{})
			later := randomID()
			caddytest.Eventually(t, "it works again", func() bool {
				return s.Record(ctx, later, store.Record{Status: 200}) == nil
			})
			wantFound(t, s, []store.Identity{known, later})
			if _, err := s.Statistics(ctx); err != nil {
				t.Errorf("statistics: got %v", err)
			}
		})
	}
}

// While Badger begins a new log it keeps every lookup waiting. On a disk that hangs
// just then, they are refused.
func TestHungDiskAtATurnOfTheLog(t *testing.T) {
	disk := faultfs.Mount(t)
	s := testStore(t, filepath.Join(disk.Dir, "store"), false)
	known := fillStore(t, s, 1, time.Time{})[0]
	disk.Set(faultfs.Faults{Hang: []faultfs.Op{faultfs.Create}, Names: "*" + logSuffix})
	filled := make(chan struct{})
	go func() {
		defer close(filled)
		for s.Record(ctx, randomID(), store.Record{Status: 200}) == nil {
		}
	}()
	for range 64 {
		go func() {
			for s.Record(ctx, randomID(), store.Record{Status: 200}) == nil {
			}
		}()
	}
	caddytest.Eventually(t, "a new log hangs", func() bool { return disk.Hanging() > 0 })
	wantRefused := func(limit time.Duration) {
		t.Helper()
		within(t, limit, "looking up", func() {
			if _, found, err := s.Lookup(ctx, known); found || !errors.Is(err, errHanging) {
				t.Errorf("known event: got %t %v, want errHanging", found, err)
			}
		})
	}
	before := runtime.NumGoroutine()
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() { wantRefused(patience) })
	}
	wg.Wait()
	for range 200 {
		wantRefused(0)
	}
	if n := runtime.NumGoroutine() - before; n > lookupsAtOnce+10 {
		t.Errorf("%d goroutines are left behind", n)
	}
	<-filled
	disk.Set(faultfs.Faults{})
	caddytest.Eventually(t, "it works again", func() bool {
		_, found, err := s.Lookup(ctx, known)
		return found && err == nil
	})
}

// openModule opens a store as Caddy does.
func openModule(t *testing.T, dir string) (*Module, store.Store) {
	t.Helper()
	on := true
	module := &Module{Path: dir, Sync: &on, MinFreeSpace: lowestMinFreeSpace}
	s, err := module.Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return module, s
}

func wantOpenedAgain(t *testing.T, module *Module, ids []store.Identity) {
	t.Helper()
	caddytest.Eventually(t, "it opens again", func() bool {
		s, err := module.Open(ctx)
		if err != nil {
			return false
		}
		defer s.Close()
		wantFound(t, s, ids)
		return true
	})
}

// Closing a store on a hung disk returns in time, and opening it again waits
// until it is closed.
func TestClosingOnAHungDisk(t *testing.T) {
	disk := faultfs.Mount(t)
	module, s := openModule(t, filepath.Join(disk.Dir, "store"))
	ids := fillStore(t, s.(*database), 100, time.Time{})
	disk.Set(faultfs.Faults{Hang: faultfs.All})
	within(t, patience, "closing", func() {
		if err := s.Close(); !errors.Is(err, errHanging) {
			t.Errorf("closing: got %v, want errHanging", err)
		}
	})
	within(t, patience, "opening", func() {
		if _, err := module.Open(ctx); !errors.Is(err, store.ErrUnavailable) || !errors.Is(err, errHanging) {
			t.Errorf("opening: got %v, want ErrUnavailable and errHanging", err)
		}
	})
	disk.Set(faultfs.Faults{})
	wantOpenedAgain(t, module, ids)
}

// Without room for what closing writes, a store stays as it is until there is room.
func TestClosingOnAFullDisk(t *testing.T) {
	disk := faultfs.Mount(t)
	module, s := openModule(t, filepath.Join(disk.Dir, "store"))
	ids := fillStore(t, s.(*database), 100, time.Time{})
	disk.Set(faultfs.Faults{Space: &faultfs.Space{BlockSize: 4096, FragmentSize: 4096, Available: 10}})
	within(t, 0, "closing", func() {
		if err := s.Close(); !errors.Is(err, errNoSpace) {
			t.Errorf("closing: got %v, want errNoSpace", err)
		}
	})
	if found, _ := filepath.Glob(filepath.Join(disk.Dir, "store", "*.sst")); len(found) > 0 {
		t.Errorf("it wrote %v", found)
	}
	within(t, patience, "opening", func() {
		_, err := module.Open(ctx)
		if !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("opening: got %v, want ErrUnavailable", err)
		}
		caddytest.WantError(t, err, "it is still being closed: not enough free space: 40 KiB free")
	})
	disk.Set(faultfs.Faults{})
	wantOpenedAgain(t, module, ids)
}
