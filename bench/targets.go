package main

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// target is what the cost is meant to stay within. A run does not fail by it: on
// another machine, or a busy one, the figures are others.
type target struct {
	What     string `json:"what"`
	Target   string `json:"target"`
	Measured string `json:"measured"`
	OK       bool   `json:"ok"`
}

// targets compares the targets with what this run has measured, and leaves out
// those that it has not.
func (r *report) targets() []target {
	var all []target
	add := func(what, format string, limit, measured float64, ok bool) {
		all = append(all, target{what, fmt.Sprintf(format, limit), fmt.Sprintf("%.2f", measured), ok})
	}
	atLeast := func(what string, limit float64, scenario string, size int) {
		if w := r.find(scenario, size, 64); w != nil {
			add(what, "at least %g", limit, w.Ratio.Median, w.Ratio.Median >= limit)
		}
	}
	atLeast("guard, 1 KiB: requests/s over plain", 0.90, "guard", 1<<10)
	atLeast("guard, 64 KiB: requests/s over plain", 0.90, "guard", 64<<10)
	if w := r.find("guard", 1<<10, 64); w != nil {
		add("guard, 1 KiB: CPU time over plain", "at most %g", 1.15, w.CPURatio.Median, w.CPURatio.Median <= 1.15)
	}
	if w, base := r.find("guard", 1<<10, 1), r.find(plain, 1<<10, 1); w != nil && base != nil {
		added, limit := 1e3*(w.P50-base.P50), 1e3*w.DiskSync+0.1
		add("guard, 1 KiB, 1 connection: added median latency in ms", "at most %.2f, a disk sync + 0.1", limit, added, added <= limit)
	}
	atLeast("repeats, 1 KiB: requests/s over plain", 1.5, "repeats", 1<<10)
	atLeast("unsigned, 1 KiB: requests/s over plain", 2, "unsigned", 1<<10)
	atLeast("forged, 1 KiB: requests/s over plain", 1.5, "forged", 1<<10)
	if v := r.Verifier; v != nil {
		add("verifier, 1 MiB: bytes/s over SHA-256", "at least %g", 0.95, v.OverSHA256, v.OverSHA256 >= 0.95)
		add("verifier: allocations a request", "at most %g", 2, v.Allocations, v.Allocations <= 2)
	}
	if w, naive := r.find("guard", 1<<10, 64), r.find("naive", 1<<10, 64); w != nil && naive != nil {
		gain := w.Ratio.Median / naive.Ratio.Median
		add("guard over naive, 1 KiB: requests/s", "above %g", 1, gain, gain > 1)
	}
	return all
}

// find returns a row of a closed loop, or nil.
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
	fmt.Fprintln(table, "\n64 connections where not said otherwise\ttarget\tmeasured\t")
	for _, t := range r.targets() {
		verdict := "ok"
		if !t.OK {
			verdict = "not reached"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", t.What, t.Target, t.Measured, verdict)
	}
	return table.Flush()
}
