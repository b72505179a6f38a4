package main

import (
	"context"
	"errors"
	"os"
	"runtime"
	"time"
)

// runner is a server and the load that it gets.
type runner struct {
	*server
	bench    *bench
	group    group
	template *template
	known    []stamp
	measured []int // the server's processes
}

// start starts a scenario's server, and delivers the events that it must know.
func (b *bench) start(ctx context.Context, g group, t *template, s scenario, environ ...string) (*runner, error) {
	srv, err := b.startServer(s, environ...)
	if err != nil {
		return nil, err
	}
	r := &runner{server: srv, bench: b, group: g, template: t}
	if r.measured, err = srv.pids(); err != nil {
		srv.stop()
		return nil, err
	}
	if s.sends == knownEvents {
		if err := r.deliverKnown(ctx); err != nil {
			err = r.explain(err)
			srv.stop()
			return nil, err
		}
	}
	return r, nil
}

// deliverKnown makes some MiB of events known, at most ten thousand.
func (r *runner) deliverKnown(ctx context.Context) (err error) {
	n := min(10_000, max(100, 64<<20/r.group.size))
	first := r.bench.numbers
	r.bench.numbers += uint64(n)
	if r.known, err = r.template.sign(first, n); err != nil {
		return err
	}
	l := r.load()
	l.stamps, l.rate, l.want, l.again = r.known, 0, wantForwarded, false
	l.warmup, l.duration = time.Minute, 0
	_, err = r.put(ctx, l, first)
	return err
}

func (r *runner) load() *load {
	return &load{
		addr:        r.addr,
		template:    r.template,
		sends:       r.scenario.sends,
		stamps:      r.known,
		again:       r.known != nil,
		want:        r.scenario.want,
		connections: r.group.connections,
		rate:        r.group.rate,
		warmup:      min(r.bench.duration/4, time.Second),
		duration:    r.bench.duration,
		server:      r.measured,
		others:      []int{r.bench.backend.cmd.Process.Pid, os.Getpid()},
	}
}

// fastest is more requests/s than a core can serve. No more events than that
// are signed for a turn; if they are used up, the turn ends early.
const fastest = 30_000

// turn applies the scenario's load to its server.
func (r *runner) turn(ctx context.Context) (o outcome, err error) {
	l := r.load()
	first := r.bench.numbers
	if r.known == nil {
		perSecond := float64(fastest * runtime.NumCPU())
		if l.rate > 0 {
			perSecond = l.rate
		}
		n := int(perSecond*(l.warmup+l.duration).Seconds()) + 1
		r.bench.numbers += uint64(n)
		if l.stamps, err = r.template.sign(first, n); err != nil {
			return o, err
		}
	}
	if l.sends == forgedEvents {
		forge(l.stamps)
	}
	return r.put(ctx, l, first)
}

// put applies a load to the server, and checks that the backend got what it
// should.
func (r *runner) put(ctx context.Context, l *load, first uint64) (outcome, error) {
	err := r.bench.expect(expectation{Size: r.group.size, First: first, Events: len(l.stamps)})
	if err != nil {
		return outcome{}, err
	}
	before, err := r.batches(ctx)
	if err != nil {
		return outcome{}, err
	}
	o, err := l.run(ctx)
	if err != nil {
		return o, err
	}
	after, err := r.batches(ctx)
	if err != nil {
		return o, err
	}
	o.batches, o.batched = after.count-before.count, after.events-before.events
	t, err := r.bench.backend.tally()
	if err != nil {
		return o, err
	}
	if o.requests == 0 && l.duration > 0 {
		return o, errors.New("no request was answered in time; give a longer --duration")
	}
	return o, l.check(o, t)
}
