package cli

import (
	"encoding/json"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
)

func TestSendManyDistinctEvents(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	url := guarded(t, b)
	got := runCommand(t, "", "send", "--url", url, "--secret", testSecret,
		"--count", "200", "--concurrency", "8", "--repeat", "1", "--json")
	got.Want(t, 0)
	if got.Stderr != "" {
		t.Errorf("without a terminal there is no progress to show, but standard error is %q", got.Stderr)
	}
	var sum struct {
		URL        string         `json:"url"`
		FirstTask  string         `json:"first_task_id"`
		LastTask   string         `json:"last_task_id"`
		Requests   int            `json:"requests"`
		Forwarded  int            `json:"forwarded"`
		Duplicates int            `json:"duplicates"`
		Statuses   map[string]int `json:"statuses"`
		PerSecond  float64        `json:"requests_per_second"`
		Latency    struct{ P50, P90, P99, Max float64 }
	}
	if err := json.Unmarshal([]byte(strings.Replace(got.Stdout, "latency_seconds", "Latency", 1)), &sum); err != nil {
		t.Fatalf("%v: %s", err, got.Stdout)
	}
	if sum.URL != url || sum.Requests != 400 || sum.Forwarded != 200 || sum.Duplicates != 200 || sum.Statuses["200"] != 400 {
		t.Errorf("it printed %s", got.Stdout)
	}
	if l := sum.Latency; sum.PerSecond <= 0 || l.P50 <= 0 || l.P50 > l.P90 || l.P90 > l.P99 || l.P99 > l.Max {
		t.Errorf("these can't be latencies: %s", got.Stdout)
	}
	tasks := make(map[string]bool)
	for _, d := range b.Deliveries() {
		_, taskID := describeEvent(d.Body)
		tasks[taskID] = true
	}
	b.WantDeliveries(t, 200)
	if len(tasks) != 200 || !tasks[sum.FirstTask] || !tasks[sum.LastTask] {
		t.Errorf("backend got %d distinct events, want 200, %s and %s among them", len(tasks), sum.FirstTask, sum.LastTask)
	}
}

func TestSendKeepsItsConcurrency(t *testing.T) {
	release := make(chan struct{})
	b := caddytest.NewBackend(t, func(http.ResponseWriter, *http.Request) { <-release })
	cmd := instantapiCommand(t, "send", "--url", b.URL, "--secret", testSecret, "--count", "8", "--concurrency", "3")
	caddytest.Finish(t, cmd, func() {
		defer close(release)
		caddytest.Eventually(t, "three events are on their way", func() bool { return len(b.Deliveries()) >= 3 })
		time.Sleep(100 * time.Millisecond) // for a fourth that must not come
		b.WantDeliveries(t, 3)
	}).Want(t, 0, "forwarded          8")
}

func TestSendKeepsItsRate(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	started := time.Now()
	runCommand(t, "", "send", "--url", b.URL, "--secret", testSecret, "--count", "11", "--rate", "10").
		Want(t, 0, "forwarded         11")
	if took := time.Since(started); took < 900*time.Millisecond {
		t.Errorf("11 events took %s, want at least 1 s at 10 a second", took)
	}
}

func TestSendSumsUpWhenInterrupted(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a process can't be interrupted here")
	}
	silence := make(chan struct{})
	b := caddytest.NewBackend(t, nil)
	b.Answer = func(http.ResponseWriter, *http.Request) {
		if len(b.Deliveries()) > 5 {
			<-silence
		}
	}
	t.Cleanup(func() { close(silence) })
	cmd := instantapiCommand(t, "send", "--url", b.URL, "--secret", testSecret, "--count", "100", "--concurrency", "1")
	got := caddytest.Finish(t, cmd, func() {
		caddytest.Eventually(t, "the sixth event is on its way", func() bool { return len(b.Deliveries()) == 6 })
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
	})
	got.Want(t, 1, "_6\n", "requests           5", "forwarded          5", "cut off            1")
	if !strings.Contains(got.Stderr, "interrupted after 5 of 100 requests") {
		t.Errorf("standard error is %q", got.Stderr)
	}
}

// TestSendNamesOnlyWhatItHasSent interrupts it while most of its senders wait for
// their turn.
func TestSendNamesOnlyWhatItHasSent(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a process can't be interrupted here")
	}
	b := caddytest.NewBackend(t, nil)
	cmd := instantapiCommand(t, "send", "--url", b.URL, "--secret", testSecret, "--count", "100", "--concurrency", "8", "--rate", "0.01")
	caddytest.Finish(t, cmd, func() {
		caddytest.Eventually(t, "the first event is there", func() bool { return len(b.Deliveries()) == 1 })
		time.Sleep(100 * time.Millisecond) // for its answer, and the other senders
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
	}).Want(t, 1, "_1 to task_", "_1\n", "forwarded          1")
}
