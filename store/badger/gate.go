package badger

import (
	"errors"
	"sync"
	"sync/atomic"
)

// errClosed means that the store has been closed, or is being closed.
var errClosed = errors.New("the store is closed")

// gate lets callers into the database until it is shut, and knows when the last
// of them has left. Badger unmaps its files when it is closed: a call that is
// still reading one, perhaps because the disk kept it waiting, gets a SIGSEGV
// that ends the process.
type gate struct {
	inside atomic.Int64 // callers, minus shutBias once it is shut
	isShut atomic.Bool
	empty  chan struct{} // closed when it is shut and nobody is inside
	once   sync.Once
}

// shutBias is more than the number of callers can ever be.
const shutBias = 1 << 62

func newGate() *gate { return &gate{empty: make(chan struct{})} }

// enter reports whether the caller may enter. If so, it must call leave.
func (g *gate) enter() bool {
	if g.inside.Add(1) > 0 {
		return true
	}
	g.leave()
	return false
}

func (g *gate) leave() { g.add(-1) }

// shut keeps further callers out. It returns false if the gate was shut before.
func (g *gate) shut() bool {
	if g.isShut.Swap(true) {
		return false
	}
	g.add(-shutBias)
	return true
}

func (g *gate) add(n int64) {
	if g.inside.Add(n) == -shutBias {
		g.once.Do(func() { close(g.empty) })
	}
}
