package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/dustin/go-humanize"
)

// target is a bound that the cost should stay within. Missing it does not fail
// a run, because the figures differ on another machine, or a busy one.
type target struct {
	What     string `json:"what"`
	Target   string `json:"target"`
	Measured string `json:"measured"`
	OK       bool   `json:"ok"`
}

// bars are targets for requests/s over plain. They are for a server that has
// one core to itself, with GOMAXPROCS=2 (--pin --gomaxprocs 2); if it shares
// the core with the load generator a server looks better.
var bars = []struct {
	scenario    string
	size        int
	connections int
	least       float64
}{
	{"verify_only", 1 << 10, 16, 1}, {"verify_only", 1 << 10, 64, 1},
	{"verify_only", 64 << 10, 16, 0.8}, {"verify_only", 64 << 10, 64, 0.8},
	{"verify_only", 1 << 20, 16, 0.7}, {"verify_only", 1 << 20, 64, 0.7},
	{"guard", 1 << 10, 16, 0.6}, {"guard", 1 << 10, 64, 0.75},
	{"guard", 64 << 10, 16, 0.7}, {"guard", 64 << 10, 64, 0.9},
	{"guard", 1 << 20, 16, 0.6},
	{"repeats", 1 << 10, 64, 1.5},
	{"forged", 1 << 10, 64, 1.5},
	{"unsigned", 1 << 10, 64, 2},
}

// targets compares the targets with the results of this run, and leaves out
// what it has not measured.
func (r *report) targets() []target {
	var all []target
	add := func(what, format string, limit, measured float64, ok bool) {
		all = append(all, target{what, fmt.Sprintf(format, limit), fmt.Sprintf("%.2f", measured), ok})
	}
	for _, bar := range bars {
		if w := r.find(bar.scenario, bar.size, bar.connections); w != nil {
			what := fmt.Sprintf("%s, %s, %s: requests/s over plain", bar.scenario, humanize.IBytes(uint64(bar.size)), plural(bar.connections, "connection"))
			add(what, "at least %g", bar.least, w.Ratio.Median, w.Ratio.Median >= bar.least)
		}
	}
	for _, size := range []int{1 << 10, 64 << 10, 1 << 20} {
		w, base := r.find("guard", size, 1), r.find(plain, size, 1)
		if w == nil || base == nil {
			continue
		}
		added, limit := 1e3*(w.P50-base.P50), 1e3*2*w.DiskSync
		add(fmt.Sprintf("guard, %s, 1 connection: added median latency in ms", humanize.IBytes(uint64(size))),
			"at most %.2f, two disk syncs", limit, added, added <= limit)
	}
	if w, naive := r.find("guard", 1<<10, 64), r.find("naive", 1<<10, 64); w != nil && naive != nil {
		gain := w.Ratio.Median / naive.Ratio.Median
		add("guard over naive, 1.0 KiB, 64 connections: requests/s", "above %g", 1, gain, gain > 1)
	}
	if v := r.Verifier; v != nil {
		add("verifier, 1.0 MiB: bytes/s over SHA-256", "at least %g", 0.95, v.OverSHA256, v.OverSHA256 >= 0.95)
		add("verifier: allocations per request", "at most %g", 2, v.Allocations, v.Allocations <= 2)
	}
	return all
}

// find returns the row of a closed loop, or nil.
func (r *report) find(scenario string, size, connections int) *row {
	for i, w := range r.Rows {
		if w.Scenario == scenario && w.Size == size && w.Connections == connections && w.Rate == 0 {
			return &r.Rows[i]
		}
	}
	return nil
}

func (r *report) writeTargets(out io.Writer) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if len(r.Method.ServerCores) != 1 || r.Method.GOMAXPROCS != 2 {
		fmt.Fprintln(out, "The targets are for --pin --gomaxprocs 2.")
	}
	fmt.Fprintln(table, "\n\ttarget\tmeasured\t")
	for _, t := range r.targets() {
		verdict := "ok"
		if !t.OK {
			verdict = "not reached"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", t.What, t.Target, t.Measured, verdict)
	}
	return table.Flush()
}
