package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"
)

// The backend is this program in a process of its own, so that the system tells
// its CPU time from the load generator's.

// roleVariable makes this program a backend.
const (
	roleVariable = "INSTANTAPI_BENCH_ROLE"
	roleBackend  = "backend"
)

const backendAnswer = `{"received": true}`

// expectation describes the events that the backend is about to get: all of one
// size, and numbered from First.
type expectation struct {
	Size   int
	First  uint64
	Events int
}

// tally is what the backend has got since then.
type tally struct {
	Arrived  int // requests
	Distinct int // events
	Foreign  int // requests whose body is not exactly one of these events
	Highest  int // one more than the last event that arrived
}

// books count the arrivals of each event.
type books struct {
	template *template
	first    uint64
	arrivals []atomic.Uint32
	foreign  atomic.Int64
}

func (b *books) arrive(body []byte) {
	number, ok := b.template.number(body)
	if i := number - b.first; ok && i < uint64(len(b.arrivals)) {
		b.arrivals[i].Add(1)
		return
	}
	b.foreign.Add(1)
}

func (b *books) tally() tally {
	t := tally{Foreign: int(b.foreign.Load())}
	for i := range b.arrivals {
		n := int(b.arrivals[i].Load())
		t.Arrived += n
		if n > 0 {
			t.Distinct++
			t.Highest = i + 1
		}
	}
	return t
}

// runBackend serves until its standard input ends, so that it does not outlive
// the program that started it. It first prints its address. From its standard
// input it then reads expectations, and answers each with the tally of the one
// before.
func runBackend(in io.Reader, out io.Writer) error {
	listener, err := net.Listen("tcp", freeAddress())
	if err != nil {
		return err
	}
	var open atomic.Pointer[books]
	server := &fasthttp.Server{
		Handler: func(ctx *fasthttp.RequestCtx) {
			if b := open.Load(); b != nil {
				b.arrive(ctx.PostBody())
			}
			ctx.Response.Header.SetContentType("application/json")
			ctx.Response.SetBodyString(backendAnswer)
		},
		MaxRequestBodySize:    16 << 20,
		NoDefaultServerHeader: true,
		CloseOnShutdown:       true,
	}
	go func() { _ = server.Serve(listener) }() // if it ends, the load generator reports that
	say, hear := json.NewEncoder(out), json.NewDecoder(in)
	if err := say.Encode(listener.Addr().String()); err != nil {
		return err
	}
	for {
		var next expectation
		if err := hear.Decode(&next); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		b := &books{first: next.First, arrivals: make([]atomic.Uint32, next.Events)}
		if b.template, err = newTemplate(next.Size); err != nil {
			return err
		}
		var before tally
		if last := open.Swap(b); last != nil {
			before = last.tally()
		}
		if err := say.Encode(before); err != nil {
			return err
		}
	}
}

// backend is the running backend as the load generator sees it.
type backend struct {
	cmd   *exec.Cmd
	addr  string
	say   *json.Encoder
	hear  *json.Decoder
	close func() error
}

func startBackend(cores []int) (*backend, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	b := &backend{cmd: exec.Command(program)}
	b.cmd.Env = append(os.Environ(), roleVariable+"="+roleBackend)
	b.cmd.Stderr = os.Stderr
	in, err := b.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := b.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := startOn(cores, b.cmd); err != nil {
		return nil, fmt.Errorf("starting the backend: %w", err)
	}
	b.say, b.hear, b.close = json.NewEncoder(in), json.NewDecoder(out), in.Close
	if err := b.hear.Decode(&b.addr); err != nil {
		b.stop()
		return nil, fmt.Errorf("the backend did not start: %w", err)
	}
	return b, nil
}

// expect opens new books and returns the tally of the previous ones.
func (b *backend) expect(e expectation) (tally, error) {
	var t tally
	if err := b.say.Encode(e); err != nil {
		return t, fmt.Errorf("asking the backend: %w", err)
	}
	if err := b.hear.Decode(&t); err != nil {
		return t, fmt.Errorf("asking the backend: %w", err)
	}
	return t, nil
}

// tally closes the books. Whatever arrives until the next books are opened
// counts as foreign.
func (b *backend) tally() (tally, error) {
	return b.expect(expectation{Size: minimumSize})
}

func (b *backend) stop() {
	_ = b.close()
	late := time.AfterFunc(stopTimeout, func() { _ = b.cmd.Process.Kill() })
	defer late.Stop()
	_ = b.cmd.Wait()
}
