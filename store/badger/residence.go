package badger

import (
	"context"
	"path/filepath"
	"sync/atomic"
)

// residence knows whether all tables are in memory and can be read without the
// disk. It is asked while the disk does not answer.
type residence struct {
	dir     string // without symbolic links
	looking shared[bool]
	until   atomic.Int64 // until then all tables count as in memory
}

func (r *residence) start(dir string) (err error) {
	r.dir, err = filepath.EvalSymlinks(dir)
	return err
}

// check reports whether that many tables are in memory.
func (r *residence) check(ctx context.Context, tables func() int) bool {
	if sinceStart() < r.until.Load() {
		return true
	}
	all, err := r.looking.do(ctx, patience, func() (bool, error) {
		want := tables()
		if want == 0 {
			return true, nil
		}
		resident, err := residentTables(r.dir)
		if err != nil || resident < want {
			return false, err
		}
		r.until.Store(sinceStart() + int64(pulseInterval))
		return true, nil
	})
	return all && err == nil
}
