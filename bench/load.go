package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"
)

// load is the load on one scenario in one round.
type load struct {
	addr        string
	template    *template
	sends       kind
	stamps      []stamp // the events, signed before the clock starts
	again       bool    // whether to start over after the last one
	want        answer
	connections int
	rate        float64 // requests/s; 0: as fast as the answers come
	warmup      time.Duration
	duration    time.Duration
	server      []int // processes whose CPU time is measured
	others      []int // likewise: the backend's and the load generator's
}

// outcome is the result of a load.
type outcome struct {
	sent      int // requests, including those before the clock started
	requests  int // answered while it ran
	elapsed   time.Duration
	latencies []time.Duration // of each of these; at a fixed rate, since it was due
	server    time.Duration   // CPU time
	others    time.Duration
	batches   float64 // that the server's store has written during the whole turn
	batched   float64 // events in these
	behind    int     // at a fixed rate: due before the clock stopped, but not answered
}

// answered is one request's end.
type answered struct {
	at      time.Time
	latency time.Duration
}

// drainTimeout is how long answers may take after the clock has stopped.
const drainTimeout = 30 * time.Second

// run applies the load. It ends at the first wrong answer.
func (l *load) run(ctx context.Context) (outcome, error) {
	runtime.GC() // not while it runs
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	var next atomic.Int64 // event
	var stop atomic.Bool
	var due chan time.Time
	begin := time.Now()
	if l.rate > 0 {
		due = make(chan time.Time, len(l.stamps))
		go l.pace(begin, due, &stop)
	}
	take := func() (i int64, since time.Time, ok bool) {
		if due != nil {
			if since, ok = <-due; !ok {
				return 0, since, false
			}
		}
		if stop.Load() {
			return 0, since, false
		}
		i = next.Add(1) - 1
		if l.again {
			i %= int64(len(l.stamps))
		}
		return i, since, i < int64(len(l.stamps))
	}

	ends := make([][]answered, l.connections)
	var workers sync.WaitGroup
	for c := range ends {
		ends[c] = make([]answered, 0, len(l.stamps)/l.connections+1)
		workers.Go(func() {
			err := l.work(ctx, take, &ends[c])
			if err != nil {
				stop.Store(true)
				cancel(err)
			}
		})
	}
	exhausted := make(chan struct{})
	go func() {
		workers.Wait()
		close(exhausted)
	}()

	wait(ctx, exhausted, l.warmup)
	start, err := l.clock()
	wait(ctx, exhausted, l.duration)
	end, err2 := l.clock()
	stop.Store(true)
	workers.Wait()
	if err := context.Cause(ctx); err != nil {
		return outcome{}, err
	}
	if err := errors.Join(err, err2); err != nil {
		return outcome{}, err
	}

	o := outcome{sent: int(next.Load()), elapsed: end.at.Sub(start.at),
		server: end.server - start.server, others: end.others - start.others}
	if !l.again {
		o.sent = min(o.sent, len(l.stamps))
	}
	answers := 0
	for _, own := range ends {
		for _, e := range own {
			if e.at.After(end.at) {
				continue
			}
			answers++
			if e.at.After(start.at) {
				o.latencies = append(o.latencies, e.latency)
			}
		}
	}
	// One per connection may be on its way at any time.
	dueByEnd := min(len(l.stamps), int(l.rate*end.at.Sub(begin).Seconds())+1)
	if l.rate > 0 && dueByEnd-answers > l.connections {
		o.behind = dueByEnd - answers
	}
	o.requests = len(o.latencies)
	slices.Sort(o.latencies)
	return o, nil
}

func wait(ctx context.Context, exhausted <-chan struct{}, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-exhausted:
	case <-time.After(d):
	}
}

// reading is a reading of the clock and of the processes' CPU time.
type reading struct {
	at             time.Time
	server, others time.Duration
}

func (l *load) clock() (now reading, err error) {
	if now.server, err = usedCPU(l.server); err != nil {
		return now, err
	}
	if now.others, err = usedCPU(l.others); err != nil {
		return now, err
	}
	now.at = time.Now()
	return now, nil
}

func usedCPU(pids []int) (sum time.Duration, err error) {
	for _, pid := range pids {
		used, err := processCPU(pid)
		if err != nil {
			return 0, err
		}
		sum += used
	}
	return sum, nil
}

// pace says when each request is due, whether or not the ones before have been
// answered: a server that stops for a moment has to answer for all that came
// meanwhile.
func (l *load) pace(begin time.Time, due chan<- time.Time, stop *atomic.Bool) {
	defer close(due)
	runtime.LockOSThread() // it sleeps in the system; never unlocked, so the thread ends with it
	for i := range cap(due) {
		at := begin.Add(time.Duration(float64(i) / l.rate * float64(time.Second)))
		preciseSleep(time.Until(at))
		if stop.Load() {
			return
		}
		due <- at
	}
}

// work is one connection. It sends a request, reads the answer and checks it,
// until there is nothing to take.
func (l *load) work(ctx context.Context, take func() (int64, time.Time, bool), ends *[]answered) error {
	request := l.template.request(l.addr, l.sends)
	var res fasthttp.Response
	var conn net.Conn
	var reader *bufio.Reader
	hangUp := func() {
		if conn != nil {
			conn.Close()
			conn = nil
		}
	}
	defer hangUp()
	for {
		i, since, ok := take()
		if !ok {
			return nil
		}
		if conn == nil {
			var err error
			if conn, err = l.dial(ctx); err != nil {
				return err
			}
			reader = bufio.NewReaderSize(conn, 4<<10)
		}
		request.set(&l.stamps[i])
		if since.IsZero() {
			since = time.Now()
		}
		// A server may refuse a body before it has read all of it: then there
		// is an answer even if writing failed.
		_, writeErr := conn.Write(request.wire)
		if err := l.want.read(reader, &res); err != nil {
			return errors.Join(err, writeErr)
		}
		now := time.Now()
		*ends = append(*ends, answered{now, now.Sub(since)})
		if writeErr != nil || res.ConnectionClose() {
			hangUp()
		}
	}
}

// read reads an answer, and checks that it is this one.
func (want answer) read(reader *bufio.Reader, res *fasthttp.Response) error {
	if err := res.Read(reader); err != nil {
		return fmt.Errorf("no answer: %w", err)
	}
	if res.StatusCode() != want.status || string(res.Body()) != want.body {
		return fmt.Errorf("answered %d %.200q, want %d %q", res.StatusCode(), res.Body(), want.status, want.body)
	}
	return nil
}

func (l *load) dial(ctx context.Context) (net.Conn, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", l.addr)
	if err != nil {
		return nil, err
	}
	// One deadline for all its requests, so that a server that hangs ends the
	// run.
	return conn, conn.SetDeadline(time.Now().Add(l.warmup + l.duration + drainTimeout))
}

// check compares the backend's books with what was sent.
func (l *load) check(o outcome, t tally) error {
	want := tally{}
	if l.want.forwarded {
		want = tally{Arrived: o.sent, Distinct: o.sent, Highest: o.sent}
	}
	if t != want {
		return fmt.Errorf("of %d requests with the right answer, the backend got %d: %d events, %d bodies that were not sent (want %d, each once)",
			o.sent, t.Arrived+t.Foreign, t.Distinct, t.Foreign, want.Arrived)
	}
	return nil
}

// syncDisk returns how long the disk takes to make each of n writes of 4 KiB
// durable. They go to existing blocks, like those of a database's log, because
// extending a file also takes a sync of the file system.
func syncDisk(dir string, n int) ([]time.Duration, error) {
	const block, blocks = 4 << 10, 64
	f, err := os.CreateTemp(dir, "sync")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := f.Write(make([]byte, blocks*block)); err != nil {
		return nil, err
	}
	if err := f.Sync(); err != nil {
		return nil, err
	}
	data := make([]byte, block)
	took := make([]time.Duration, n)
	for i := range took {
		data[0] = byte(i + 1)
		start := time.Now()
		if _, err := f.WriteAt(data, int64(i%blocks)*block); err != nil {
			return nil, err
		}
		if err := f.Sync(); err != nil {
			return nil, err
		}
		took[i] = time.Since(start)
	}
	return took, nil
}
