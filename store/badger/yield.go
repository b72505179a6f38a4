package badger

import (
	"fmt"
	"os"
	"runtime"
)

// yielder lets other goroutines run: those that are ready, and those for which
// data has arrived from the network. [runtime.Gosched] is not enough for the
// latter: the runtime polls the network when no goroutine is ready, and a
// goroutine that has called Gosched is. On a single processor, requests that
// have arrived would wait for the disk.
//
// So the caller waits for the network too: for a byte in a pipe, which is
// noticed together with whatever has arrived.
type yielder struct{ in, out *os.File }

func newYielder() (*yielder, error) {
	in, out, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("making a pipe: %w", err)
	}
	return &yielder{in: in, out: out}, nil
}

// yield may be called by one goroutine at a time.
func (y *yielder) yield() {
	back := make(chan struct{})
	go func() {
		defer close(back)
		var one [1]byte
		_, _ = y.in.Read(one[:])
	}()
	// The goroutine must be waiting before the byte is sent: a byte that is
	// there already is read without polling the network.
	runtime.Gosched()
	if _, err := y.out.Write([]byte{0}); err != nil {
		return
	}
	<-back
	runtime.Gosched() // goroutines that were noticed with the byte go first
}

func (y *yielder) close() {
	_ = y.out.Close() // a pending read gets the end of the file
	_ = y.in.Close()
}
