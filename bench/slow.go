package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/valyala/fasthttp"
)

// slowRow is the memory of a server whose senders have sent only part of what
// they announced.
type slowRow struct {
	Scenario  string `json:"scenario"`
	Senders   int    `json:"senders"`
	Announced int    `json:"announced"` // bytes per sender
	Sent      int    `json:"sent"`      // bytes per sender
	Memory    uint64 `json:"memory"`    // resident, in bytes
}

const announced = 4 << 20

// slowSenders opens connections that announce bodies of 4 MiB and send a little
// of them, then more. In the end each sends the rest and must get the right
// answer: a server that refused the bodies would need little memory too.
func (b *bench) slowSenders(ctx context.Context) ([]slowRow, error) {
	chosen, err := findScenarios([]string{"buffered", "guard"})
	if err != nil {
		return nil, err
	}
	t, err := newTemplate(announced)
	if err != nil {
		return nil, err
	}
	var rows []slowRow
	for _, s := range chosen {
		fmt.Fprintf(b.status, "%s: %s\n", s.name, plural(b.options.slowSenders, "slow sender"))
		own, err := b.sendSlowly(ctx, t, s)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		rows = append(rows, own...)
	}
	return rows, nil
}

func (b *bench) sendSlowly(ctx context.Context, t *template, s scenario) (rows []slowRow, err error) {
	srv, err := b.startServer(s)
	if err != nil {
		return nil, err
	}
	defer srv.stop()
	senders := make([]net.Conn, b.options.slowSenders)
	defer func() {
		for _, conn := range senders {
			if conn != nil {
				conn.Close()
			}
		}
	}()
	var dialer net.Dialer
	for i := range senders {
		if senders[i], err = dialer.DialContext(ctx, "tcp", srv.addr); err != nil {
			return nil, err
		}
	}
	first := b.numbers
	b.numbers += uint64(len(senders))
	stamps, err := t.sign(first, len(senders))
	if err != nil {
		return nil, err
	}
	if err := b.expect(expectation{Size: announced, First: first, Events: len(stamps)}); err != nil {
		return nil, err
	}
	request := t.request(srv.addr, s.sends)
	head := len(request.wire) - announced
	written := 0
	for _, sent := range []int{0, 16 << 10, 64 << 10, 256 << 10} {
		for i, conn := range senders {
			if err := conn.SetDeadline(time.Now().Add(drainTimeout)); err != nil {
				return nil, err
			}
			request.set(&stamps[i])
			if _, err := conn.Write(request.wire[written : head+sent]); err != nil {
				return nil, fmt.Errorf("sender %d: %w", i+1, err)
			}
		}
		written = head + sent
		used, err := settledMemory(ctx, srv)
		if err != nil {
			return nil, err
		}
		rows = append(rows, slowRow{s.name, len(senders), announced, sent, used})
	}
	for i, conn := range senders {
		request.set(&stamps[i])
		if err := sendRest(conn, request.wire[written:], s.want); err != nil {
			return nil, srv.explain(fmt.Errorf("sender %d: %w", i+1, err))
		}
	}
	got, err := b.backend.tally()
	if err != nil {
		return nil, err
	}
	l := load{want: s.want}
	return rows, l.check(outcome{sent: len(senders)}, got)
}

func sendRest(conn net.Conn, rest []byte, want answer) error {
	if err := conn.SetDeadline(time.Now().Add(drainTimeout)); err != nil {
		return err
	}
	_, writeErr := conn.Write(rest)
	var res fasthttp.Response
	if err := want.read(bufio.NewReader(conn), &res); err != nil {
		return errors.Join(err, writeErr)
	}
	return nil
}

// settledMemory waits until a server's memory has stopped changing.
func settledMemory(ctx context.Context, srv *server) (used uint64, err error) {
	const look, within, enough = 100 * time.Millisecond, 1 << 20, 5
	for same := 0; same < enough; {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(look):
		}
		now, _, err := srv.memory()
		if err != nil {
			return 0, err
		}
		if max(now, used)-min(now, used) <= within {
			same++
		} else {
			same = 0
			used = now
		}
	}
	return used, nil
}

func (r *report) writeSlowSenders(out io.Writer) error {
	first := r.SlowSenders[0]
	fmt.Fprintf(out, "%s of bodies of %s, which have sent only part of them\n\n",
		plural(first.Senders, "sender"), humanize.IBytes(uint64(first.Announced)))
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\tsent by each\tsent by all\tserver's memory\t")
	for _, w := range r.SlowSenders {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t\n", w.Scenario, humanize.IBytes(uint64(w.Sent)),
			humanize.IBytes(uint64(w.Sent)*uint64(w.Senders)), humanize.IBytes(w.Memory))
	}
	return table.Flush()
}
