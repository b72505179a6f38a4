package badger

import (
	"errors"
	"math"
	"path/filepath"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/internal/faultfs"
	"github.com/instantapi/caddy-instantapi-verify/store"
)

func TestFreeSpaceOfEachFileSystem(t *testing.T) {
	disk := faultfs.Mount(t)
	for name, test := range map[string]struct {
		space faultfs.Space
		want  uint64
	}{
		"large blocks":          {faultfs.Space{BlockSize: 1 << 20, FragmentSize: 4096, Available: 1000}, 4096000},
		"large fragments":       {faultfs.Space{BlockSize: 512, FragmentSize: 4096, Available: 1000}, 4096000},
		"no fragments":          {faultfs.Space{BlockSize: 4096, Available: 1000}, 4096000},
		"nothing":               {faultfs.Space{BlockSize: 4096, FragmentSize: 4096, Free: 1000}, 0},
		"less than nothing":     {faultfs.Space{BlockSize: 4096, FragmentSize: 4096, Available: -1000}, 0},
		"more than can be told": {faultfs.Space{BlockSize: 4096, FragmentSize: 4096, Available: math.MaxInt64}, math.MaxUint64},
	} {
		t.Run(name, func(t *testing.T) {
			disk.Set(faultfs.Faults{Space: &test.space})
			if got, err := freeSpace(disk.Dir); got != test.want || err != nil {
				t.Errorf("got %d %v, want %d", got, err, test.want)
			}
		})
	}
}

// A file system that is full in fragments is full.
func TestLargeBlocksAreNoSpace(t *testing.T) {
	disk := faultfs.Mount(t)
	space := func(fragments int64) faultfs.Faults {
		return faultfs.Faults{Space: &faultfs.Space{BlockSize: 1 << 20, FragmentSize: 4096, Available: fragments}}
	}
	const enough = lowestMinFreeSpace / 4096
	disk.Set(space(enough))
	s := testStore(t, filepath.Join(disk.Dir, "store"), true)
	if err := s.Record(ctx, randomID(), store.Record{Status: 200}); err != nil {
		t.Fatal(err)
	}
	for _, fragments := range []int64{enough - 1, 0, -1} {
		disk.Set(space(fragments))
		time.Sleep(2 * lookInterval)
		if err := s.Record(ctx, randomID(), store.Record{Status: 200}); !errors.Is(err, errNoSpace) {
			t.Errorf("recording with %d fragments: got %v, want errNoSpace", fragments, err)
		}
		if _, _, err := s.Lookup(ctx, randomID()); !errors.Is(err, store.ErrCannotRecord) {
			t.Errorf("looking up with %d fragments: got %v, want ErrCannotRecord", fragments, err)
		}
	}
}
