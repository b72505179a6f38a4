package badger

import (
	"errors"
	"sync"
	"sync/atomic"
)

// errClosed means that the store has been closed, or is being closed.
var errClosed = errors.New("the store is closed")

// gate lets callers into the database until it is shut, and knows when the last of
// them has left. Badger unmaps its files when it is closed: whoever still reads one
// then, perhaps because the disk kept the call waiting, gets a SIGSEGV that ends the
// process.
type gate struct {
	inside atomic.Int64 // callers, less shutBias when it is shut
	isShut atomic.Bool
	empty  chan struct{} // closed when it is shut and nobody is inside
	once   sync.Once
}

// shutBias is more than callers can ever be.
const shutBias = 1 << 62

func newGate() *gate { return &gate{empty: make(chan struct{})} }

// enter reports whether the caller may come in. If so, it must leave.
func (g *gate) enter() bool {
	if g.inside.Add(1) > 0 {
		return true
	}
	g.leave()
	return false
}

func (g *gate) leave() { g.add(-1) }

// shut lets nobody in any more. It returns false if it was shut before.
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
