package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

const usage = `Usage: go -C bench run . [flags]

Without --only, --sizes, --connections and --rate it measures a default set, in
less than eight minutes. Relative files are relative to bench/.

`

// options say what a run does.
type options struct {
	groups     []group
	duration   time.Duration // of one scenario's turn
	rounds     int           // turns of each scenario
	pin        bool
	gomaxprocs int    // of the Caddys; 0: as Go chooses
	peer       bool   // whether nginx and Redis are measured too
	dir        string // the stores are below it
	json       string // file
	plot       string // file
	profiles   string // directory

	slowSenders int // instead of the groups

	program string // the Caddy to measure; empty: it is built
}

// parseOptions reads the command line. If that asks for help, parseOptions
// writes the help to out and returns [flag.ErrHelp].
func parseOptions(args []string, out io.Writer) (options, error) {
	var o options
	only := scenarioNames()
	sizes := []int{1 << 10}
	connections := []int{64}
	rate := 0.0
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.Usage = func() {} // otherwise every mistake prints it
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
	flags.DurationVar(&o.duration, "duration", 1500*time.Millisecond, "duration of one scenario's turn, after its warm-up")
	flags.IntVar(&o.rounds, "rounds", 5, "number of turns of each scenario")
	flags.BoolVar(&o.pin, "pin", false, "one core for the server, the others for load and backend (Linux); otherwise all share all")
	flags.IntVar(&o.gomaxprocs, "gomaxprocs", 0, "the `number` of goroutines that each Caddy runs at once; otherwise as Go chooses, the cores it may use")
	flags.BoolVar(&o.peer, "peer", false, "measure nginx with its Lua module and redis-server beside the guard; both must be installed, see peer/guard.lua")
	flags.StringVar(&o.dir, "dir", os.TempDir(), "`directory` for the stores, on the disk that is to be measured")
	flags.StringVar(&o.json, "json", "", "`file` for the results")
	flags.StringVar(&o.plot, "plot", "", "`file` for a plot, .svg or .png")
	flags.StringVar(&o.profiles, "profile", "", "`directory` for profiles of the servers, taken after the measuring")
	flags.IntVar(&o.slowSenders, "slow-senders", 0, "measure only the memory under this many `senders` of unfinished bodies")
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
	if o.rounds < 1 || o.duration <= 0 || o.slowSenders < 0 || o.gomaxprocs < 0 {
		return o, errors.New("--rounds, --duration, --slow-senders and --gomaxprocs must be above 0")
	}
	if plotEndings := []string{".svg", ".png", ".pdf"}; o.plot != "" && !slices.Contains(plotEndings, filepath.Ext(o.plot)) {
		return o, fmt.Errorf("--plot: %q does not end with one of %s", o.plot, strings.Join(plotEndings, ", "))
	}
	if o.pin && (!canPin || runtime.NumCPU() < 2) {
		return o, errors.New("--pin needs Linux and two cores")
	}
	chosen, err := findScenarios(only)
	if err != nil {
		return o, err
	}
	o.groups = defaultGroups()
	custom := false
	flags.Visit(func(f *flag.Flag) {
		custom = custom || slices.Contains([]string{"only", "sizes", "connections", "rate"}, f.Name)
	})
	if custom {
		o.groups = nil
		for _, size := range sizes {
			for _, n := range connections {
				o.groups = append(o.groups, group{size: size, connections: n, rate: rate, scenarios: chosen})
			}
		}
	}
	if o.peer {
		for i := range o.groups {
			o.groups[i].scenarios = withPeer(o.groups[i].scenarios)
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
