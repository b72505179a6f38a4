package cli

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// tally counts the outcomes of requests. Concurrent use is safe until it is read.
type tally struct {
	mu         sync.Mutex
	outcomes   map[string]int
	statuses   map[int]int
	latencies  []float64 // in seconds, of the requests with an answer
	firstError string
	last       int64        // number of the events that were begun
	cutOff     atomic.Int64 // requests ended by Ctrl-C, with an unknown outcome
}

func newTally() *tally {
	return &tally{outcomes: make(map[string]int), statuses: make(map[int]int)}
}

// begin returns the number of an event that is about to be sent: the next one.
func (t *tally) begin() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last++
	return t.last
}

func (t *tally) add(got posted) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.outcomes[got.Outcome]++
	if got.Outcome != outcomeNoAnswer {
		t.statuses[got.Status]++
		t.latencies = append(t.latencies, got.Seconds)
	} else if t.firstError == "" {
		t.firstError = got.Error
	}
}

func (t *tally) count(outcome string) int { return t.outcomes[outcome] }

func (t *tally) requests() int {
	sum := 0
	for _, n := range t.outcomes {
		sum += n
	}
	return sum
}

// summary is what `caddy instantapi send --count` prints at the end.
type summary struct {
	URL        string      `json:"url"`
	FirstTask  string      `json:"first_task_id"`
	LastTask   string      `json:"last_task_id"`
	Requests   int         `json:"requests"` // without those cut off
	Forwarded  int         `json:"forwarded"`
	Duplicates int         `json:"duplicates"`
	Refused    int         `json:"refused"`
	NoAnswer   int         `json:"no_answer"`
	CutOff     int         `json:"cut_off"`
	FirstError string      `json:"first_error,omitempty"`
	Statuses   map[int]int `json:"statuses"`
	Seconds    float64     `json:"seconds"`
	PerSecond  float64     `json:"requests_per_second"`
	Latency    latency     `json:"latency_seconds"`
}

// latency is the time in seconds until an answer was read, of the requests that
// had one.
type latency struct {
	P50 float64 `json:"p50"`
	P90 float64 `json:"p90"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

func (t *tally) summary(took time.Duration) summary {
	slices.Sort(t.latencies)
	return summary{
		Requests:   t.requests(),
		Forwarded:  t.count(outcomeForwarded),
		Duplicates: t.count(outcomeDuplicate),
		Refused:    t.count(outcomeRefused),
		NoAnswer:   t.count(outcomeNoAnswer),
		CutOff:     int(t.cutOff.Load()),
		FirstError: t.firstError,
		Statuses:   t.statuses,
		Seconds:    took.Seconds(),
		PerSecond:  float64(t.requests()) / took.Seconds(),
		Latency: latency{
			percentile(t.latencies, 50),
			percentile(t.latencies, 90),
			percentile(t.latencies, 99),
			percentile(t.latencies, 100),
		},
	}
}

// percentile returns the smallest of the sorted values that at least p percent of
// them do not exceed, 0 if there are none.
func percentile(sorted []float64, p int) float64 {
	if len(sorted) == 0 {
		return 0
	}
	rank := (len(sorted)*p + 99) / 100
	return sorted[rank-1]
}

func (s summary) print(out io.Writer) {
	fmt.Fprintf(out, "%s\ntask_id %s to %s\n\n", s.URL, s.FirstTask, s.LastTask)
	fmt.Fprintf(out, "requests    %8d   in %.2f s, %.0f a second\n", s.Requests, s.Seconds, s.PerSecond)
	fmt.Fprintf(out, "forwarded   %8d\nduplicates  %8d\nrefused     %8d\nno answer   %8d", s.Forwarded, s.Duplicates, s.Refused, s.NoAnswer)
	if s.FirstError != "" {
		fmt.Fprintf(out, "   the first: %s", printable(s.FirstError))
	}
	fmt.Fprintln(out)
	if s.CutOff > 0 {
		fmt.Fprintf(out, "cut off     %8d   they may have been delivered\n", s.CutOff)
	}
	for _, status := range slices.Sorted(maps.Keys(s.Statuses)) {
		fmt.Fprintf(out, "status %d  %8d\n", status, s.Statuses[status])
	}
	if len(s.Statuses) > 0 {
		fmt.Fprintf(out, "latency     p50 %s, p90 %s, p99 %s, max %s\n",
			inUnits(s.Latency.P50), inUnits(s.Latency.P90), inUnits(s.Latency.P99), inUnits(s.Latency.Max))
	}
}
