package instantapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// commandResult is what a run of `caddy instantapi` has left.
type commandResult struct {
	status         int
	stdout, stderr string
}

// instantapiCommand prepares `caddy instantapi`, with the test's secret in an
// environment variable.
func instantapiCommand(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	program, err := caddyProgram()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(timeout(t), program, append([]string{"instantapi"}, args...)...)
	cmd.Env = append(os.Environ(), "TEST_SECRET="+testSecret, "EMPTY_SECRET=")
	return cmd
}

// runCommand runs `caddy instantapi` to its end. No run may print the secret.
func runCommand(t *testing.T, stdin string, args ...string) commandResult {
	t.Helper()
	cmd := instantapiCommand(t, args...)
	cmd.Stdin = strings.NewReader(stdin)
	return finish(t, cmd, func() {})
}

// finish starts a command, calls meanwhile, and waits for the command's end.
func finish(t *testing.T, cmd *exec.Cmd, meanwhile func()) commandResult {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	meanwhile()
	if _, ok := errors.AsType[*exec.ExitError](cmd.Wait()); !ok && !cmd.ProcessState.Success() {
		t.Fatalf("%s did not end by itself", cmd)
	}
	got := commandResult{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
	if strings.Contains(got.stdout+got.stderr, testSecret) {
		t.Errorf("the secret is in the output:\n%s%s", got.stdout, got.stderr)
	}
	return got
}

// want checks a run's exit status and what it has printed, in this order, on
// standard output.
func (got commandResult) want(t *testing.T, status int, printed ...string) {
	t.Helper()
	rest := got.stdout
	for _, text := range printed {
		_, after, found := strings.Cut(rest, text)
		if !found {
			t.Errorf("it should print %q after what comes before", text)
		}
		rest = after
	}
	if got.status != status || t.Failed() {
		t.Errorf("exit status %d, want %d; it printed:\n%s\nand to standard error:\n%s", got.status, status, got.stdout, got.stderr)
	}
}

// guarded runs a Caddy with a guard in front of a backend, and returns the
// endpoint's URL.
func guarded(t *testing.T, b *backend) (url string) {
	t.Helper()
	s := newProcessSite(t, filepath.Join(t.TempDir(), "store"))
	startCaddy(t, s, s.caddyfile(`
		@guarded not path /open
		instantapi_verify @guarded `+testSecret+`
		reverse_proxy `+b.addr()))
	return s.url("/webhooks/instantapi")
}

func TestSendShowsForwardedDuplicateForged(t *testing.T) {
	b := newBackend(t, nil)
	url := guarded(t, b)

	runCommand(t, "", "send", "--url", url, "--secret", testSecret, "--task-id", "one", "--repeat", "1").
		want(t, 0, "task.completed", "one", "200 forwarded", "from the backend", " ms\n", "200 duplicate", bodyDuplicate)
	runCommand(t, "", "send", "--url", url, "--secret-env", "TEST_SECRET", "--task-id", "one").
		want(t, 0, "200 duplicate")
	runCommand(t, "", "send", "--url", url, "--secret", testSecret, "--forge", "--repeat", "1").
		want(t, 0, "401 refused", bodyForged, "401 refused")
	runCommand(t, "", "send", "--url", url, "--secret", testSecret, "--event-type", "task.failed").
		want(t, 0, "task.failed", "200 forwarded")

	got := b.deliveries()
	if len(got) != 2 {
		t.Fatalf("backend got %d events, want 2", len(got))
	}
	const completed = `{"event_type":"task.completed","task_id":"one","status":"completed","result":{"text":"Made up by caddy instantapi send"},"usage":{"cost":0.01}}`
	if string(got[0].body) != completed {
		t.Errorf("backend got %s, want %s", got[0].body, completed)
	}
	if !regexp.MustCompile(`^{"event_type":"task.failed","task_id":"task_\w{12}","status":"failed","result":{"error":".+"},"usage":{.+}}$`).Match(got[1].body) {
		t.Errorf("backend got %s, want a failed event", got[1].body)
	}
	if contentType := got[0].Header.Get("Content-Type"); contentType != "application/json" {
		t.Errorf("Content-Type is %q", contentType)
	}
}

func TestSendMakesEachEventNew(t *testing.T) {
	url := guarded(t, newBackend(t, nil))
	for range 2 {
		runCommand(t, "", "send", "--url", url, "--secret", testSecret).want(t, 0, "200 forwarded")
	}
}

func TestSendKeepsTheBytesOfAFile(t *testing.T) {
	b := newBackend(t, nil)
	url := guarded(t, b)
	body := "{ \"event_type\": \"task.completed\",\r\n \"task_id\": \"f\u00fcnf\\u001b\" }\n\n"
	file := filepath.Join(t.TempDir(), "event.json")
	if err := os.WriteFile(file, []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
	runCommand(t, "", "send", "--url", url, "--secret", testSecret, "--file", file).
		want(t, 0, "task_id f\u00fcnf\ufffd\n", "200 forwarded")
	runCommand(t, body, "send", "--url", url, "--secret", testSecret, "--file", "-").
		want(t, 0, "200 duplicate")
	if got := b.deliveries(); len(got) != 1 || string(got[0].body) != body {
		t.Errorf("backend got %v, want one request with %q", got, body)
	}
}

func TestSendExitStatuses(t *testing.T) {
	b := newBackend(t, nil)
	url := guarded(t, b)
	open := strings.TrimSuffix(url, "/webhooks/instantapi") + "/open"
	elsewhere := newBackend(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/elsewhere", http.StatusPermanentRedirect)
	})
	rude := newBackend(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		io.WriteString(w, "\x1b[2J"+strings.Repeat("long ", 1000))
	})
	silence := make(chan struct{})
	silent := newBackend(t, func(http.ResponseWriter, *http.Request) { <-silence })
	endless := newBackend(t, func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "{")
		http.NewResponseController(w).Flush()
		<-silence
	})
	t.Cleanup(func() { close(silence) })

	for _, test := range []struct {
		name    string
		args    []string
		status  int
		printed []string
		stderr  string
	}{
		{"wrong secret", []string{"--url", url, "--secret", "another"}, 2, []string{"401 refused"}, "refused"},
		{"one of two refused", []string{"--url", rude.URL, "--repeat", "1"}, 2, []string{"500 refused", "500 refused"}, "2 of 2"},
		{"no terminal codes", []string{"--url", rude.URL}, 2, []string{"500 refused     \ufffd[2Jlong ", "...  "}, "refused"},
		{"a redirect is no delivery", []string{"--url", elsewhere.URL}, 2, []string{"308 refused", "/elsewhere"}, "refused"},
		{"another signature header", []string{"--url", url, "--signature-header", "X-Other"}, 2, []string{"401 refused"}, "refused"},
		{"a forgery got through", []string{"--url", open, "--forge"}, 2, []string{"200 forwarded"}, "not answered with 401"},
		{"a forgery was refused by something else", []string{"--url", rude.URL, "--forge"}, 2, []string{"500 refused"}, "not answered with 401"},
		{"nobody listens", []string{"--url", "http://" + fixedAddr(t)}, 3, []string{"--- no answer"}, "1 of 1 requests got no answer"},
		{"nobody listens, forged", []string{"--url", "http://" + fixedAddr(t), "--forge"}, 3, []string{"--- no answer"}, "no answer"},
		{"nobody answers", []string{"--url", silent.URL, "--timeout", "100ms"}, 3, []string{"--- no answer", "no whole answer within 100ms"}, "no answer"},
		{"an answer without an end", []string{"--url", endless.URL, "--timeout", "100ms"}, 3, []string{"--- no answer", "no whole answer within 100ms"}, "no answer"},
		{"count, refused", []string{"--url", rude.URL, "--count", "3"}, 2, []string{"refused            3", "status 500         3"}, "3 of 3"},
		{"count, forged", []string{"--url", url, "--count", "3", "--forge"}, 0, []string{"refused            3", "status 401         3"}, ""},
		{"count, nobody listens", []string{"--url", "http://" + fixedAddr(t), "--count", "3"}, 3, []string{"no answer          3", "refused"}, "no answer"},
	} {
		t.Run(test.name, func(t *testing.T) {
			args := append([]string{"send"}, test.args...)
			if !strings.Contains(strings.Join(args, " "), "--secret ") {
				args = append(args, "--secret", testSecret)
			}
			got := runCommand(t, "", args...)
			got.want(t, test.status, test.printed...)
			if !strings.Contains(got.stderr, test.stderr) {
				t.Errorf("standard error is %q, want %q in it", got.stderr, test.stderr)
			}
			if strings.Contains(got.stdout, "\x1b") {
				t.Errorf("the answer's control characters get to the terminal: %q", got.stdout)
			}
		})
	}
}

func TestCommandsRefuseWrongUsage(t *testing.T) {
	secret := []string{"--secret", testSecret}
	for _, test := range []struct {
		name string
		args []string
		want string // in the error
	}{
		{"no such command", []string{"sned"}, "sned"},
		{"no secret", []string{"send"}, "secret"},
		{"two secrets", []string{"send", "--secret", testSecret, "--secret-env", "TEST_SECRET"}, "not several"},
		{"one flag twice", append([]string{"send", "--secret", "a"}, secret...), "not several"},
		{"empty secret", []string{"send", "--secret", ""}, "--secret is empty"},
		{"empty variable", []string{"send", "--secret-env", "EMPTY_SECRET"}, "unset or empty"},
		{"secret for a variable's name", []string{"send", "--secret-env", testSecret}, "unset or empty"},
		{"secret without its flag", []string{"send", testSecret}, "flags"},
		{"secret with one dash", []string{"send", "-secret=" + testSecret}, "two dashes"},
		{"unknown flag", append([]string{"send", "--cuont", "2"}, secret...), "--cuont"},
		{"URL without a scheme", append([]string{"send", "--url", "localhost:8080/x"}, secret...), "--url"},
		{"URL of another scheme", append([]string{"send", "--url", "ftp://localhost/x"}, secret...), "--url"},
		{"URL without a host", append([]string{"send", "--url", "http:///x"}, secret...), "--url"},
		{"URL that is none", append([]string{"send", "--url", "http://[::1/"}, secret...), "--url"},
		{"header name", append([]string{"send", "--signature-header", "X Y"}, secret...), "header name"},
		{"count 0", append([]string{"send", "--count", "0"}, secret...), "--count"},
		{"count too large", append([]string{"send", "--count", "1000000000"}, secret...), "--count"},
		{"count not a number", append([]string{"send", "--count", "many"}, secret...), "--count"},
		{"count times repeat", append([]string{"send", "--count", "1000000", "--repeat", "10"}, secret...), "--repeat"},
		{"repeat below 0", append([]string{"send", "--repeat", "-1"}, secret...), "--repeat"},
		{"concurrency 0", append([]string{"send", "--count", "2", "--concurrency", "0"}, secret...), "--concurrency"},
		{"concurrency too large", append([]string{"send", "--count", "2", "--concurrency", "100000"}, secret...), "--concurrency"},
		{"concurrency without count", append([]string{"send", "--concurrency", "2"}, secret...), "need --count"},
		{"rate without count", append([]string{"send", "--rate", "2"}, secret...), "need --count"},
		{"rate 0", append([]string{"send", "--count", "2", "--rate", "0"}, secret...), "--rate"},
		{"rate below 0", append([]string{"send", "--count", "2", "--rate", "-1"}, secret...), "--rate"},
		{"rate NaN", append([]string{"send", "--count", "2", "--rate", "NaN"}, secret...), "--rate"},
		{"timeout 0", append([]string{"send", "--timeout", "0s"}, secret...), "--timeout"},
		{"count and file", append([]string{"send", "--count", "2", "--file", "x"}, secret...), "[count file]"},
		{"count and task id", append([]string{"send", "--count", "2", "--task-id", "x"}, secret...), "[count task-id]"},
		{"file and task id", append([]string{"send", "--file", "x", "--task-id", "x"}, secret...), "[file task-id]"},
		{"file and event type", append([]string{"send", "--file", "x", "--event-type", "x"}, secret...), "[file event-type]"},
		{"empty task id", append([]string{"send", "--task-id", ""}, secret...), "--task-id"},
		{"empty event type", append([]string{"send", "--event-type", ""}, secret...), "--event-type"},
		{"empty file name", append([]string{"send", "--file", ""}, secret...), "--file"},
		{"file that is not there", append([]string{"send", "--file", "none.json"}, secret...), "none.json"},
		{"file that is a directory", append([]string{"send", "--file", "."}, secret...), "--file"},

		{"sign, no secret", []string{"sign"}, "secret"},
		{"sign, two secrets", append([]string{"sign", "--secret", "a"}, secret...), "not several"},
		{"sign, argument", append([]string{"sign", "event.json"}, secret...), "flags"},
		{"sign, file that is not there", append([]string{"sign", "--file", "none.json"}, secret...), "none.json"},
		{"verify, no secret", []string{"verify", "--signature", "00"}, "secret"},
		{"verify, empty secret among others", append([]string{"verify", "--signature", "00", "--secret", ""}, secret...), "--secret is empty"},
		{"verify, no signature", append([]string{"verify"}, secret...), "signature"},
		{"verify, file that is not there", append([]string{"verify", "--signature", "00", "--file", "none.json"}, secret...), "none.json"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := runCommand(t, "", test.args...)
			if got.status != 1 || !strings.HasPrefix(got.stderr, "Error: ") || !strings.Contains(got.stderr, test.want) || got.stdout != "" {
				t.Errorf("exit status %d, want 1 and an error with %q; it printed %q and to standard error %q", got.status, test.want, got.stdout, got.stderr)
			}
		})
	}
}

func TestSendPrintsJSON(t *testing.T) {
	url := guarded(t, newBackend(t, nil))
	got := runCommand(t, "", "send", "--url", url, "--secret", testSecret, "--task-id", "j", "--repeat", "1", "--json")
	got.want(t, 0)
	var outcomes []string
	for line := range strings.Lines(got.stdout) {
		var answer struct {
			TaskID  string  `json:"task_id"`
			Status  int     `json:"status"`
			Outcome string  `json:"outcome"`
			Answer  string  `json:"answer"`
			Seconds float64 `json:"seconds"`
		}
		if err := json.Unmarshal([]byte(line), &answer); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if answer.TaskID != "j" || answer.Status != 200 || answer.Answer == "" || answer.Seconds <= 0 {
			t.Errorf("it printed %s", line)
		}
		outcomes = append(outcomes, answer.Outcome)
	}
	if fmt.Sprint(outcomes) != "[forwarded duplicate]" {
		t.Errorf("outcomes are %s", outcomes)
	}

	got = runCommand(t, "", "send", "--url", "http://"+fixedAddr(t), "--secret", testSecret, "--json")
	got.want(t, 3)
	var answer map[string]any
	if err := json.Unmarshal([]byte(got.stdout), &answer); err != nil || answer["outcome"] != "no_answer" || answer["error"] == "" {
		t.Errorf("%v: it printed %s", err, got.stdout)
	}
}

func TestSendManyDistinctEvents(t *testing.T) {
	b := newBackend(t, nil)
	url := guarded(t, b)
	got := runCommand(t, "", "send", "--url", url, "--secret", testSecret,
		"--count", "200", "--concurrency", "8", "--repeat", "1", "--json")
	got.want(t, 0)
	if got.stderr != "" {
		t.Errorf("without a terminal there is no progress to show, but standard error is %q", got.stderr)
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
	if err := json.Unmarshal([]byte(strings.Replace(got.stdout, "latency_seconds", "Latency", 1)), &sum); err != nil {
		t.Fatalf("%v: %s", err, got.stdout)
	}
	if sum.URL != url || sum.Requests != 400 || sum.Forwarded != 200 || sum.Duplicates != 200 || sum.Statuses["200"] != 400 {
		t.Errorf("it printed %s", got.stdout)
	}
	if l := sum.Latency; sum.PerSecond <= 0 || l.P50 <= 0 || l.P50 > l.P90 || l.P90 > l.P99 || l.P99 > l.Max {
		t.Errorf("these can't be latencies: %s", got.stdout)
	}
	tasks := make(map[string]bool)
	for _, d := range b.deliveries() {
		_, taskID := describeEvent(d.body)
		tasks[taskID] = true
	}
	b.wantDeliveries(t, 200)
	if len(tasks) != 200 || !tasks[sum.FirstTask] || !tasks[sum.LastTask] {
		t.Errorf("backend got %d distinct events, want 200, %s and %s among them", len(tasks), sum.FirstTask, sum.LastTask)
	}
}

func TestSendKeepsItsConcurrency(t *testing.T) {
	release := make(chan struct{})
	b := newBackend(t, func(http.ResponseWriter, *http.Request) { <-release })
	cmd := instantapiCommand(t, "send", "--url", b.URL, "--secret", testSecret, "--count", "8", "--concurrency", "3")
	finish(t, cmd, func() {
		defer close(release)
		eventually(t, "three events are on their way", func() bool { return len(b.deliveries()) >= 3 })
		time.Sleep(100 * time.Millisecond) // for a fourth that must not come
		b.wantDeliveries(t, 3)
	}).want(t, 0, "forwarded          8")
}

func TestSendDoesNotPrintAPasswordOfTheURL(t *testing.T) {
	for _, address := range []string{newBackend(t, nil).addr(), fixedAddr(t)} {
		url := "http://user:hunter2@" + address
		for _, args := range [][]string{nil, {"--json"}, {"--count", "2"}, {"--count", "2", "--json"}} {
			got := runCommand(t, "", append([]string{"send", "--url", url, "--secret", testSecret}, args...)...)
			if got.status == 1 || strings.Contains(got.stdout+got.stderr, "hunter2") {
				t.Errorf("%s: exit status %d, %s%s", args, got.status, got.stdout, got.stderr)
			}
		}
	}
}

func TestSendKeepsItsRate(t *testing.T) {
	b := newBackend(t, nil)
	started := time.Now()
	runCommand(t, "", "send", "--url", b.URL, "--secret", testSecret, "--count", "11", "--rate", "10").
		want(t, 0, "forwarded         11")
	if took := time.Since(started); took < 900*time.Millisecond {
		t.Errorf("11 events took %s, want at least 1 s at 10 a second", took)
	}
}

func TestSendSumsUpWhenInterrupted(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a process can't be interrupted here")
	}
	silence := make(chan struct{})
	b := newBackend(t, nil)
	b.answer = func(http.ResponseWriter, *http.Request) {
		if len(b.deliveries()) > 5 {
			<-silence
		}
	}
	t.Cleanup(func() { close(silence) })
	cmd := instantapiCommand(t, "send", "--url", b.URL, "--secret", testSecret, "--count", "100", "--concurrency", "1")
	got := finish(t, cmd, func() {
		eventually(t, "the sixth event is on its way", func() bool { return len(b.deliveries()) == 6 })
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
	})
	got.want(t, 1, "_6\n", "requests           5", "forwarded          5", "cut off            1")
	if !strings.Contains(got.stderr, "interrupted after 5 of 100 requests") {
		t.Errorf("standard error is %q", got.stderr)
	}
}

// TestSendNamesOnlyWhatItHasSent interrupts it while most of its senders wait for
// their turn.
func TestSendNamesOnlyWhatItHasSent(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a process can't be interrupted here")
	}
	b := newBackend(t, nil)
	cmd := instantapiCommand(t, "send", "--url", b.URL, "--secret", testSecret, "--count", "100", "--concurrency", "8", "--rate", "0.01")
	finish(t, cmd, func() {
		eventually(t, "the first event is there", func() bool { return len(b.deliveries()) == 1 })
		time.Sleep(100 * time.Millisecond) // for its answer, and the other senders
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
	}).want(t, 1, "_1 to task_", "_1\n", "forwarded          1")
}

// TestReadmeTryIt does what the README says to do beside the quick start's Caddy:
// send, send again, forge, look up, forget. It compares what is printed. Only the
// ports are others.
func TestReadmeTryIt(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	config, err := os.ReadFile("examples/quickstart/Caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	s := newProcessSite(t, "")
	_, port, _ := strings.Cut(s.addr, ":")
	_, backendPort, _ := strings.Cut(fixedAddr(t), ":")
	admin := fixedAddr(t)
	startCaddy(t, s, "{\n\tadmin "+admin+"\n}\n"+strings.NewReplacer(":8080", ":"+port, ":8081", ":"+backendPort).Replace(string(config)))

	const program = "go run ./examples/caddy instantapi "
	calls := regexp.MustCompile("(?m)```sh\n"+program+"(.*)\n```\n```\n((?s:.*?))```").FindAllStringSubmatch(string(readme), -1)
	var done []string
	for _, call := range calls {
		args := strings.Fields(strings.ReplaceAll(call[1], ":8080", ":"+port))
		if !slices.Contains(args, "--url") {
			args = append(args, "--url", "http://localhost:"+port+"/webhooks/instantapi")
		}
		cmd := instantapiCommand(t, args...)
		cmd.Env = append(cmd.Env, "CADDY_ADMIN="+admin)
		got := finish(t, cmd, func() {})
		want, printed := masked(call[2]), masked(got.stdout)
		if got.status != 0 || printed != want {
			t.Errorf("%s: exit status %d; it printed\n%s%s, the README has\n%s", call[1], got.status, printed, got.stderr, want)
		}
		done = append(done, args[0])
	}
	if want := []string{"send", "send", "send", "lookup", "forget", "send"}; !slices.Equal(done, want) {
		t.Errorf("the README does %q, want %q", done, want)
	}
}

// masked replaces what differs from run to run.
func masked(printed string) string {
	printed = regexp.MustCompile(`task_[a-z0-9]{12}`).ReplaceAllString(printed, "task_X")
	printed = regexp.MustCompile(`\S+T\S+ \(.*\)`).ReplaceAllString(printed, "TIME")
	return regexp.MustCompile(`[0-9.]+ ms`).ReplaceAllString(printed, "N ms")
}

func TestPercentiles(t *testing.T) {
	var sorted []float64
	for i := range 1000 {
		sorted = append(sorted, float64(i+1))
	}
	for _, test := range []struct {
		values []float64
		p      int
		want   float64
	}{
		{nil, 50, 0},
		{sorted[:1], 50, 1},
		{sorted[:1], 100, 1},
		{sorted[:2], 50, 1},
		{sorted[:3], 50, 2},
		{sorted[:10], 99, 10},
		{sorted, 50, 500},
		{sorted, 99, 990},
		{sorted, 100, 1000},
	} {
		if got := percentile(test.values, test.p); got != test.want {
			t.Errorf("p%d of %d values is %v, want %v", test.p, len(test.values), got, test.want)
		}
	}
}
