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
type yielder struct {
	in, out *os.File
	back    chan struct{}
}

func newYielder() (*yielder, error) {
	in, out, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("making a pipe: %w", err)
	}
	y := &yielder{in: in, out: out, back: make(chan struct{})}
	go y.echo()
	return y, nil
}

// echo says of each byte that it is back. It has to wait for the byte before that
// is sent: what is there already is read without a look at the network.
func (y *yielder) echo() {
	var one [1]byte
	for {
		if _, err := y.in.Read(one[:]); err != nil {
			close(y.back)
			return
		}
		y.back <- struct{}{}
	}
}

// yield is for one goroutine at a time.
func (y *yielder) yield() {
	if _, err := y.out.Write([]byte{0}); err != nil {
		runtime.Gosched()
		return
	}
	<-y.back
	runtime.Gosched() // whoever was noticed with the byte goes first
}

func (y *yielder) close() {
	_ = y.out.Close() // echo ends by it
	<-y.back
	_ = y.in.Close()
}
