// Command bench measures what the guard costs beside a plain reverse_proxy, on
// the machine that it runs on:
//
//	go -C bench run .
//
// It builds Caddy with this module, starts a backend that does nothing but count,
// and lets the scenarios take turns. Each request's answer is checked, and the
// backend's books are held against what was sent: a wrong answer, however fast,
// ends the run with an error.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/shirou/gopsutil/v4/disk"
)

func main() {
	if os.Getenv(roleVariable) == roleBackend {
		signal.Ignore(os.Interrupt) // the terminal sends it to everyone; the parent says when to end
		if err := runBackend(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "backend:", err)
			os.Exit(1)
		}
		return
	}
	o, err := parseOptions(os.Args[1:], os.Stdout)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%v (-h shows the flags)\n", err)
		os.Exit(2)
	}
	// Whatever ends the run, its servers and its stores are not left behind.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err = runAndReport(ctx, o, os.Stdout, os.Stderr)
	if ctx.Err() != nil {
		fmt.Fprintln(os.Stderr, "interrupted")
		os.Exit(1)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "FAILED:", err)
		os.Exit(1)
	}
}

const usage = `Usage: go -C bench run . [flags]

Without --only, --sizes, --connections and --rate it measures a default set, in
less than five minutes. Relative files are relative to bench/.

`

// options are what a run is to do.
type options struct {
	groups   []group
	duration time.Duration // of one scenario's turn
	rounds   int           // turns of each scenario
	pin      bool
	dir      string // the stores are below it
	json     string // file
	plot     string // file
	profiles string // directory

	slowSenders int // instead of the groups

	program string // the Caddy to measure; empty: it is built
}

// parseOptions reads the command line. Asked for help, it writes that to out and
// returns [flag.ErrHelp].
func parseOptions(args []string, out io.Writer) (options, error) {
	var o options
	only := scenarioNames()
	sizes := []int{1 << 10}
	connections := []int{64}
	rate := 0.0
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.Usage = func() {} // else it is shown for every mistake
	flags.Func("only", "comma-separated `scenarios`, measured beside plain: "+strings.Join(only, ","), func(s string) error {
		only = strings.Split(s, ",")
		return nil
	})
	flags.Func("sizes", "comma-separated `sizes` of bodies (default 1KiB)", func(s string) (err error) {
		sizes, err = parseList(s, parseSize)
		return err
	})
	flags.Func("connections", "comma-separated `numbers` of connections (default 64)", func(s string) (err error) {
		connections, err = parseList(s, parsePositive)
		return err
	})
	flags.Func("rate", "`requests/s` sent whether or not the ones before are answered; latencies count from when a request was due", func(s string) (err error) {
		rate, err = strconv.ParseFloat(s, 64)
		if err == nil && rate <= 0 {
			err = errors.New("give more than 0")
		}
		return err
	})
	flags.DurationVar(&o.duration, "duration", 1500*time.Millisecond, "of one scenario's turn, after its warm-up")
	flags.IntVar(&o.rounds, "rounds", 5, "turns of each scenario")
	flags.BoolVar(&o.pin, "pin", false, "half of the cores for the server, the others for load and backend (Linux); otherwise all share all")
	flags.StringVar(&o.dir, "dir", os.TempDir(), "`directory` for the stores, on the disk that is to be measured")
	flags.StringVar(&o.json, "json", "", "`file` for the results")
	flags.StringVar(&o.plot, "plot", "", "`file` for a plot, .svg or .png")
	flags.StringVar(&o.profiles, "profile", "", "`directory` for profiles of the servers, taken after the measuring")
	flags.IntVar(&o.slowSenders, "slow-senders", 0, "measure only the memory under so many `senders` of bodies that do not end")
	err := flags.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(out, usage)
		flags.SetOutput(out)
		flags.PrintDefaults()
	}
	if err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if o.rounds < 1 || o.duration <= 0 || o.slowSenders < 0 {
		return o, errors.New("--rounds, --duration and --slow-senders must be above 0")
	}
	if plotEndings := []string{".svg", ".png", ".pdf"}; o.plot != "" && !slices.Contains(plotEndings, filepath.Ext(o.plot)) {
		return o, fmt.Errorf("--plot: %q ends with none of %s", o.plot, strings.Join(plotEndings, ", "))
	}
	if o.pin && (!canPin || runtime.NumCPU() < 2) {
		return o, errors.New("--pin needs Linux and two cores")
	}
	chosen, err := findScenarios(only)
	if err != nil {
		return o, err
	}
	custom := false
	flags.Visit(func(f *flag.Flag) {
		custom = custom || slices.Contains([]string{"only", "sizes", "connections", "rate"}, f.Name)
	})
	if !custom {
		o.groups = defaultGroups()
		return o, nil
	}
	for _, size := range sizes {
		for _, n := range connections {
			o.groups = append(o.groups, group{size: size, connections: n, rate: rate, scenarios: chosen})
		}
	}
	return o, nil
}

func parseList(s string, parse func(string) (int, error)) (values []int, err error) {
	for item := range strings.SplitSeq(s, ",") {
		value, err := parse(item)
		if err != nil {
			return nil, err
		}
		values = append(values, value)
	}
	return values, nil
}

func parseSize(s string) (int, error) {
	size, err := humanize.ParseBytes(s)
	if err != nil || size < uint64(minimumSize) || size > 4<<20 {
		return 0, fmt.Errorf("%q is not a size from %d bytes to 4MiB", s, minimumSize)
	}
	return int(size), nil
}

func parsePositive(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("%q is not a number above 0", s)
	}
	return n, nil
}

// runAndReport does what the options say, and writes the table to out.
func runAndReport(ctx context.Context, o options, out, status io.Writer) error {
	b, err := newBench(ctx, o, status)
	if err != nil {
		return err
	}
	defer b.close()
	report := newReport(b)
	if o.slowSenders > 0 {
		if report.SlowSenders, err = b.slowSenders(ctx); err != nil {
			return err
		}
	} else if err := b.measure(ctx, report); err != nil {
		return err
	}
	if err := report.write(out); err != nil {
		return err
	}
	if o.json != "" {
		if err := report.writeJSON(o.json); err != nil {
			return err
		}
	}
	if o.plot != "" {
		if err := report.writePlot(o.plot); err != nil {
			return err
		}
	}
	if o.profiles != "" {
		return b.profile(ctx)
	}
	return nil
}

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
	b = &bench{options: o, status: status}
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
		for core := range runtime.NumCPU() {
			if core < runtime.NumCPU()/2 {
				b.serverCores = append(b.serverCores, core)
			} else {
				b.otherCores = append(b.otherCores, core)
			}
		}
	}
	if fileSystem(b.work) == "tmpfs" {
		fmt.Fprintf(status, "warning: %s is in memory, where nothing is ever synced; give --dir on a disk\n", o.dir)
	}
	if b.program == "" {
		fmt.Fprintln(status, "building Caddy with this module ...")
		if b.program, err = buildCaddy(ctx, b.work); err != nil {
			return nil, err
		}
	}
	if o.pin { // after the build, which may have all cores
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

// measure fills in all of the report.
func (b *bench) measure(ctx context.Context, report *report) error {
	turns := 0
	for _, g := range b.groups {
		turns += len(g.scenarios) * b.rounds
	}
	b.progress = newProgress(b.status, turns)
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

// results are what a group's scenarios have reached, in its order.
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
		_, highest, err := memory(run.cmd.Process.Pid)
		if err != nil {
			return r, err
		}
		r.memory = append(r.memory, highest)
	}
	return r, nil
}

const syncsPerRound = 40

// runner is a server with what it is to be sent.
type runner struct {
	*server
	bench    *bench
	group    group
	template *template
	known    []stamp
}

// start starts a scenario's server. Events that it is to know are delivered.
func (b *bench) start(ctx context.Context, g group, t *template, s scenario, environ ...string) (*runner, error) {
	srv, err := startServer(b.program, b.work, b.backend.addr, s, b.serverCores, environ...)
	if err != nil {
		return nil, err
	}
	r := &runner{server: srv, bench: b, group: g, template: t}
	if s.sends == knownEvents {
		if err := r.deliverKnown(ctx); err != nil {
			err = r.explain(err)
			srv.stop()
			return nil, err
		}
	}
	return r, nil
}

// deliverKnown makes some MiB of events known, ten thousand at most.
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
		processes:   []int{r.cmd.Process.Pid, r.bench.backend.cmd.Process.Pid, os.Getpid()},
	}
}

// fastest is how many requests/s a core could possibly serve. More events than
// that are not signed for a turn; if they are used up, the turn ends early.
const fastest = 30_000

// turn puts the scenario's load on its server.
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

// put puts a load on the server, and checks that the backend got what it should.
func (r *runner) put(ctx context.Context, l *load, first uint64) (outcome, error) {
	err := r.bench.expect(expectation{Size: r.group.size, First: first, Events: len(l.stamps)})
	if err != nil {
		return outcome{}, err
	}
	o, err := l.run(ctx)
	if err != nil {
		return o, err
	}
	t, err := r.bench.backend.tally()
	if err != nil {
		return o, err
	}
	if o.requests == 0 && l.duration > 0 {
		return o, errors.New("no request was answered in time; give a longer --duration")
	}
	return o, l.check(o, t)
}

// expect opens the backend's books for a turn. Nothing may have arrived since the
// turn before was closed: a server that answers first and forwards later would
// have a part of its work measured in nobody's turn.
func (b *bench) expect(e expectation) error {
	late, err := b.backend.expect(e)
	if err != nil {
		return err
	}
	if late.Foreign > 0 {
		return fmt.Errorf("the backend got %s after all of the turn before had been answered", plural(late.Foreign, "request"))
	}
	return nil
}
