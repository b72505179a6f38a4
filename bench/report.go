package main

import (
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/shirou/gopsutil/v4/cpu"
)

// report has all results of a run. Durations are in seconds.
type report struct {
	Machine     machine          `json:"machine"`
	Method      method           `json:"method"`
	Rows        []row            `json:"rows,omitempty"`
	Verifier    *verifierFigures `json:"verifier,omitempty"`
	Targets     []target         `json:"targets,omitempty"`
	SlowSenders []slowRow        `json:"slow_senders,omitempty"`
}

type machine struct {
	System     string `json:"system"`
	CPU        string `json:"cpu"`
	Cores      int    `json:"cores"`
	Go         string `json:"go"`
	Caddy      string `json:"caddy"`
	FileSystem string `json:"file_system"` // of the stores
}

type method struct {
	Rounds      int     `json:"rounds"`
	Duration    float64 `json:"duration"` // of one turn
	ServerCores []int   `json:"server_cores,omitempty"`
	OtherCores  []int   `json:"other_cores,omitempty"`
	GOMAXPROCS  int     `json:"gomaxprocs,omitempty"` // of the servers; 0: as Go chooses
}

// row has the results of one scenario in one group.
type row struct {
	Scenario    string  `json:"scenario"`
	Size        int     `json:"size"`
	Connections int     `json:"connections"`
	Rate        float64 `json:"rate,omitempty"`   // at which requests were due
	Behind      int     `json:"behind,omitempty"` // of these, not answered when their turn ended, and therefore not in any figure

	Requests  int     `json:"requests"`   // in all rounds
	PerSecond float64 `json:"per_second"` // median of the rounds
	Ratio     span    `json:"ratio"`      // to plain, of each round
	CPU       float64 `json:"cpu"`        // the server's, per request, over all rounds
	CPURatio  span    `json:"cpu_ratio"`  // to plain, of each round
	OtherCPU  float64 `json:"other_cpu"`  // of the backend and the load generator, per request
	P50       float64 `json:"p50"`
	P99       float64 `json:"p99"`
	P999      float64 `json:"p999"`
	Batch     float64 `json:"batch,omitempty"` // events that the store wrote together, on average
	Memory    uint64  `json:"memory"`          // highest resident, in bytes
	DiskSync  float64 `json:"disk_sync"`       // median, measured between the turns
}

// span is a figure of several rounds.
type span struct {
	Median  float64 `json:"median"`
	Lowest  float64 `json:"lowest"`
	Highest float64 `json:"highest"`
}

func spanOf(values []float64) span {
	return span{median(values), slices.Min(values), slices.Max(values)}
}

func (s span) String() string {
	return fmt.Sprintf("%.2f (%.2f–%.2f)", s.Median, s.Lowest, s.Highest)
}

func median[T float64 | time.Duration](values []T) T {
	sorted := slices.Sorted(slices.Values(values))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

// quantile is of sorted values.
func quantile(sorted []time.Duration, q float64) float64 {
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))].Seconds()
}

func newReport(b *bench) *report {
	r := &report{
		Machine: machine{System: runtime.GOOS + "/" + runtime.GOARCH, Cores: runtime.NumCPU(), Go: runtime.Version(),
			FileSystem: fileSystem(b.work)},
		Method: method{Rounds: b.rounds, Duration: b.duration.Seconds(),
			ServerCores: b.serverCores, OtherCores: b.otherCores, GOMAXPROCS: b.gomaxprocs},
	}
	if info, err := cpu.Info(); err == nil && len(info) > 0 {
		r.Machine.CPU = info[0].ModelName
	}
	if info, err := buildinfo.ReadFile(b.program); err == nil {
		for _, module := range info.Deps {
			if module.Path == "github.com/caddyserver/caddy/v2" {
				r.Machine.Caddy = module.Version
			}
		}
	}
	return r
}

// add adds a group's rows.
func (r *report) add(g results) {
	base := g.outcomes[slices.IndexFunc(g.scenarios, func(s scenario) bool { return s.name == plain })]
	for i, outcomes := range g.outcomes {
		w := row{Scenario: g.scenarios[i].name, Size: g.size, Connections: g.connections, Rate: g.rate,
			Memory: g.memory[i], DiskSync: median(g.syncs).Seconds()}
		var latencies []time.Duration
		var perSecond, ratios, cpuRatios []float64
		var server, others time.Duration
		var batches, events float64
		for round, o := range outcomes {
			w.Requests += o.requests
			w.Behind += o.behind
			latencies = append(latencies, o.latencies...)
			perSecond = append(perSecond, o.perSecond())
			ratios = append(ratios, o.perSecond()/base[round].perSecond())
			cpuRatios = append(cpuRatios, o.serverCPU()/base[round].serverCPU())
			server += o.server
			others += o.others
			batches, events = batches+o.batches, events+o.batched
		}
		slices.Sort(latencies)
		w.PerSecond = median(perSecond)
		w.Ratio, w.CPURatio = spanOf(ratios), spanOf(cpuRatios)
		w.CPU = server.Seconds() / float64(w.Requests)
		w.OtherCPU = others.Seconds() / float64(w.Requests)
		if batches > 0 {
			w.Batch = events / batches
		}
		w.P50, w.P99, w.P999 = quantile(latencies, 0.5), quantile(latencies, 0.99), quantile(latencies, 0.999)
		r.Rows = append(r.Rows, w)
	}
}

func (o outcome) perSecond() float64 { return float64(o.requests) / o.elapsed.Seconds() }

func (o outcome) serverCPU() float64 { return o.server.Seconds() / float64(o.requests) }

// write writes the table.
func (r *report) write(out io.Writer) error {
	m := r.Machine
	fmt.Fprintf(out, "%s, %s, %s (%s), Caddy %s; stores on %s\n",
		m.System, plural(m.Cores, "core"), m.CPU, m.Go, m.Caddy, m.FileSystem)
	if len(r.Method.ServerCores) > 0 {
		fmt.Fprintf(out, "Cores %v are the server's, %v the load generator's and the backend's.\n", r.Method.ServerCores, r.Method.OtherCores)
	} else {
		fmt.Fprintln(out, "Server, backend and load generator are processes of their own and share all cores, unpinned.")
	}
	if r.Method.GOMAXPROCS > 0 {
		fmt.Fprintf(out, "The Caddys run with GOMAXPROCS=%d.\n", r.Method.GOMAXPROCS)
	}
	if len(r.SlowSenders) > 0 {
		return r.writeSlowSenders(out)
	}
	fmt.Fprintf(out, "All proxies keep %d connections to the backend. There is no access log, and the default log goes to a file.\n", idleUpstream)
	fmt.Fprintf(out, "%s of %g s each. Ratios are to plain in the same round: the median, the lowest and the highest.\n",
		plural(r.Method.Rounds, "round"), r.Method.Duration)

	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	var last group
	for _, w := range r.Rows {
		g := group{size: w.Size, connections: w.Connections, rate: w.Rate}
		if g.String() != last.String() {
			last = g
			if err := table.Flush(); err != nil {
				return err
			}
			fmt.Fprintf(out, "\n%s; a disk sync took %s ms\n", g, millis(w.DiskSync))
			fmt.Fprintln(table, "\trequests/s\tover plain\tCPU µs\tover plain\tothers' µs\tp50 ms\tp99 ms\tp99.9 ms\tbatch\tpeak memory\t")
		}
		fmt.Fprintf(table, "%s\t%.0f\t%s\t%.1f\t%s\t%.1f\t%s\t%s\t%s\t%s\t%s\t\n",
			w.Scenario, w.PerSecond, w.Ratio, 1e6*w.CPU, w.CPURatio, 1e6*w.OtherCPU,
			millis(w.P50), millis(w.P99), millis(w.P999), w.batch(), humanize.IBytes(w.Memory))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, w := range r.Rows {
		if w.Behind > 0 {
			fmt.Fprintf(out, "\n%s fell behind by %s at a rate of %g/s; including these, its latencies would be higher.\n", w.Scenario, plural(w.Behind, "request"), w.Rate)
		}
	}
	fmt.Fprintln(out, "\nCPU is the server's CPU time per request; others' is that of the load generator and the backend. A batch is the number of events that the store writes together.")
	return r.writeTargets(out)
}

// batch is empty if the store wrote nothing.
func (w *row) batch() string {
	if w.Batch == 0 {
		return ""
	}
	return fmt.Sprintf("%.1f", w.Batch)
}

func millis(seconds float64) string { return fmt.Sprintf("%.3f", 1e3*seconds) }

func (r *report) writeJSON(file string) error {
	if r.Targets == nil && r.Rows != nil {
		r.Targets = r.targets()
	}
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}
