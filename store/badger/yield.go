package badger

import (
	"fmt"
	"os"
	"runtime"
)

// yielder lets other goroutines run: those that can, and those that the network
// has something for. [runtime.Gosched] is not enough for these. The runtime looks
// at the network when nobody else can run, and who has called Gosched can. On a
// single processor, requests that have arrived would wait for the disk.
//
// So the caller waits for the network, too: for a byte in a pipe, which is noticed
// together with whatever has arrived.
type yielder struct{ in, out *os.File }

func newYielder() (*yielder, error) {
	in, out, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("making a pipe: %w", err)
	}
	return &yielder{in: in, out: out}, nil
}

// yield is for one goroutine at a time.
func (y *yielder) yield() {
	back := make(chan struct{})
	go func() {
		defer close(back)
		var one [1]byte
		_, _ = y.in.Read(one[:])
	}()
	// It has to wait for the byte before that is sent: what is there already is read
	// without a look at the network.
	runtime.Gosched()
	if _, err := y.out.Write([]byte{0}); err != nil {
		return
	}
	<-back
	runtime.Gosched() // whoever was noticed with the byte goes first
}

func (y *yielder) close() {
	_ = y.out.Close() // whoever still reads gets the end of the file
	_ = y.in.Close()
}
