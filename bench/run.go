package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/shirou/gopsutil/v4/disk"
)

// bench is a run.
type bench struct {
	options
	status   io.Writer
	work     string // removed at the end
	backend  *backend
	progress *progress

	serverCores, otherCores []int // empty: all

	numbers uint64 // the next event's
}

func newBench(ctx context.Context, o options, status io.Writer) (b *bench, err error) {
	turns := 0
	for _, g := range o.groups {
		turns += len(g.scenarios) * o.rounds
	}
	b = &bench{options: o, status: status, progress: newProgress(status, turns)}
	dir, err := filepath.Abs(o.dir)
	if err != nil {
		return nil, err
	}
	if b.work, err = os.MkdirTemp(dir, "instantapi-bench"); err != nil {
		return nil, fmt.Errorf("--dir: %w", err)
	}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	if o.pin {
		b.serverCores = []int{0}
		for core := 1; core < runtime.NumCPU(); core++ {
			b.otherCores = append(b.otherCores, core)
		}
	}
	if fileSystem(b.work) == "tmpfs" {
		fmt.Fprintf(status, "warning: %s is in memory, where nothing is ever synced; use --dir with a directory on a disk\n", o.dir)
	}
	if b.program == "" {
		fmt.Fprintln(status, "building Caddy with this module ...")
		if b.program, err = buildCaddy(ctx, b.work); err != nil {
			return nil, err
		}
	}
	if o.pin { // after the build, which may use all cores
		if err := pinSelf(b.otherCores); err != nil {
			return nil, err
		}
	}
	b.backend, err = startBackend(b.otherCores)
	return b, err
}

// fileSystem returns the kind of the file system that a directory is on, or "".
func fileSystem(dir string) (kind string) {
	mounts, err := disk.Partitions(true)
	if err != nil {
		return ""
	}
	longest := 0
	for _, mount := range mounts {
		below, err := filepath.Rel(mount.Mountpoint, dir)
		if err == nil && filepath.IsLocal(below) && len(mount.Mountpoint) > longest {
			kind, longest = mount.Fstype, len(mount.Mountpoint)
		}
	}
	return kind
}

func (b *bench) close() {
	if b.backend != nil {
		b.backend.stop()
	}
	_ = os.RemoveAll(b.work)
}

// measure fills in the report.
func (b *bench) measure(ctx context.Context, report *report) error {
	defer b.progress.end()
	for _, g := range b.groups {
		results, err := b.measureGroup(ctx, g)
		if err != nil {
			return fmt.Errorf("%s: %w", g, err)
		}
		report.add(results)
	}
	var err error
	report.Verifier, err = measureVerifier()
	return err
}

// results are the results of a group's scenarios, in its order.
type results struct {
	group
	outcomes [][]outcome     // scenario, round
	memory   []uint64        // scenario; bytes
	syncs    []time.Duration // of the disk, between the turns
}

// measureGroup starts a server for each scenario and lets them take turns, each
// round beginning with another one.
func (b *bench) measureGroup(ctx context.Context, g group) (r results, err error) {
	r = results{group: g, outcomes: make([][]outcome, len(g.scenarios))}
	t, err := newTemplate(g.size)
	if err != nil {
		return r, err
	}
	var runners []*runner
	defer func() {
		for _, run := range runners {
			run.stop()
		}
		if err == nil { // with the servers gone, nothing more can arrive
			err = b.expect(expectation{Size: minimumSize})
		}
	}()
	for _, s := range g.scenarios {
		run, err := b.start(ctx, g, t, s)
		if err != nil {
			return r, fmt.Errorf("%s: %w", s.name, err)
		}
		runners = append(runners, run)
	}
	for round := range b.rounds {
		for turn := range runners {
			i := (round + turn) % len(runners)
			b.progress.next(fmt.Sprintf("%s: %s", g, runners[i].scenario.name))
			o, err := runners[i].turn(ctx)
			if err != nil {
				return r, fmt.Errorf("%s: %w", runners[i].scenario.name, runners[i].explain(err))
			}
			r.outcomes[i] = append(r.outcomes[i], o)
		}
		syncs, err := syncDisk(b.work, syncsPerRound)
		if err != nil {
			return r, err
		}
		r.syncs = append(r.syncs, syncs...)
	}
	for _, run := range runners {
		_, highest, err := run.memory()
		if err != nil {
			return r, err
		}
		r.memory = append(r.memory, highest)
	}
	return r, nil
}

const syncsPerRound = 40

// expect opens the backend's books for a turn. Nothing may have arrived since
// the previous turn was closed: a server that answers first and forwards later
// would do part of its work outside its turn.
func (b *bench) expect(e expectation) error {
	late, err := b.backend.expect(e)
	if err != nil {
		return err
	}
	if late.Foreign > 0 {
		return fmt.Errorf("the backend got %s after everything in the previous turn had been answered", plural(late.Foreign, "request"))
	}
	return nil
}
