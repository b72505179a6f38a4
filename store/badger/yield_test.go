package badger

import (
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// yield lets goroutines run for which data has arrived from the network, even
// on a single processor.
func TestYieldingLooksAtTheNetwork(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	y := testYielder(t)
	client, server := connection(t)
	var received atomic.Int64
	go func() {
		var one [1]byte
		for {
			if _, err := server.Read(one[:]); err != nil {
				return
			}
			received.Add(1)
		}
	}()
	const sends = 200
	late := 0
	for sent := range int64(sends) {
		if _, err := client.Write([]byte{0}); err != nil {
			t.Fatal(err)
		}
		if y.yield(); received.Load() <= sent {
			late++
		}
	}
	// Now and then the runtime prefers the goroutine that has waited longest.
	if late > sends/10 {
		t.Errorf("%d of %d bytes were not received when it was over", late, sends)
	}
}

// A closed yielder leaves nothing behind, and nothing waits for it.
func TestYielderIsClosed(t *testing.T) {
	before := runtime.NumGoroutine()
	y, err := newYielder()
	if err != nil {
		t.Fatal(err)
	}
	y.close()
	y.yield()
	for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
}

func testYielder(t *testing.T) *yielder {
	t.Helper()
	y, err := newYielder()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(y.close)
	return y
}

// connection returns the two ends of a connection.
func connection(t *testing.T) (client, server net.Conn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if client, err = net.Dial("tcp", listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	if server, err = listener.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return client, server
}
