package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if os.Getenv(roleVariable) == roleBackend {
		if err := runBackend(os.Stdin, os.Stdout); err != nil {
			panic(err)
		}
		return
	}
	dir, err := os.MkdirTemp("", "instantapi-bench-test")
	if err != nil {
		panic(err)
	}
	if caddyProgram, err = buildCaddy(context.Background(), dir); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

var caddyProgram string

// short is a run of all measurements that is too short for its figures to mean
// anything.

func short(t *testing.T, groups ...group) options {
	t.Helper()
	return options{groups: groups, duration: 400 * time.Millisecond, rounds: 1, dir: t.TempDir(), program: caddyProgram}
}

func TestEveryScenarioIsMeasured(t *testing.T) {
	pair, err := findScenarios([]string{"guard"})
	if err != nil {
		t.Fatal(err)
	}
	o := short(t,
		group{size: 1 << 10, connections: 8, scenarios: scenarios},
		group{size: 64 << 10, connections: 2, rate: 50, scenarios: pair})
	o.json, o.plot = filepath.Join(o.dir, "out.json"), filepath.Join(o.dir, "out.svg")
	var out bytes.Buffer
	if err := runAndReport(t.Context(), o, &out, io.Discard); err != nil {
		t.Fatal(err)
	}

	text, err := os.ReadFile(o.json)
	if err != nil {
		t.Fatal(err)
	}
	var got report
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if want := len(scenarios) + len(pair); len(got.Rows) != want {
		t.Fatalf("%d rows, want %d", len(got.Rows), want)
	}
	for i, w := range got.Rows {
		if i < len(scenarios) && w.Scenario != scenarios[i].name {
			t.Errorf("row %d is of %s", i, w.Scenario)
		}
		if w.Requests == 0 || w.PerSecond <= 0 || w.Ratio.Median <= 0 || w.CPU <= 0 || w.OtherCPU <= 0 ||
			w.P50 <= 0 || w.P50 > w.P99 || w.P99 > w.P999 || w.Memory < 10<<20 || w.DiskSync <= 0 {
			t.Errorf("not a measurement: %+v", w)
		}
		if w.Scenario == plain && (w.Ratio != span{1, 1, 1} || w.CPURatio != span{1, 1, 1}) {
			t.Errorf("plain is not its own measure: %+v", w)
		}
		if records := strings.HasPrefix(w.Scenario, "guard"); (w.Batch >= 1) != records || w.Batch > float64(w.Connections) {
			t.Errorf("%s with %d connections wrote %g events together", w.Scenario, w.Connections, w.Batch)
		}
		if w.Rate > 0 && w.PerSecond > 2*w.Rate {
			t.Errorf("%g requests/s at a rate of %g", w.PerSecond, w.Rate)
		}
		if !strings.Contains(out.String(), w.Scenario) {
			t.Errorf("%s is not in the table", w.Scenario)
		}
	}
	if len(got.Targets) == 0 || !strings.Contains(out.String(), got.Targets[0].What) {
		t.Errorf("no targets in %s", out.String())
	}
	if got.Verifier.OverSHA256 <= 0 {
		t.Errorf("not a measurement: %+v", got.Verifier)
	}
	if svg, err := os.ReadFile(o.plot); err != nil || !bytes.Contains(svg, []byte("guard_nosync")) {
		t.Errorf("no plot: %v", err)
	}
	left, err := filepath.Glob(filepath.Join(o.dir, "instantapi-bench*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

// A server that is fast because it answers wrongly must not get a figure.

func TestWrongAnswersFailTheRun(t *testing.T) {
	respond := "respond `" + backendAnswer + "` 200"
	for _, test := range []struct {
		name string
		scenario
		says string
	}{
		{"does not forward", scenario{routes: respond, want: wantForwarded}, "the backend got 0"},
		{"forwards another body", scenario{routes: "request_body {\nset `{}`\n}\n{proxy}", want: wantForwarded}, "bodies that were not sent"},
		{"forwards some", scenario{routes: "@some `{http.request.uuid}.contains('a')`\nhandle @some {\n" + respond + "\n}\n{proxy}",
			want: wantForwarded}, "the backend got"},
		{"answers with an error", scenario{routes: "respond 503", want: wantForwarded}, "answered 503"},
		{"answers something else", scenario{routes: "respond no 200", want: wantForwarded}, `answered 200 "no"`},
		{"hangs up", scenario{routes: "abort", want: wantForwarded}, "no answer"},
		{"forwards forgeries", scenario{routes: "{proxy}", sends: forgedEvents, want: wantRefused}, "answered 200"},
		{"refuses forgeries, but forwards them", scenario{routes: "intercept {\nhandle_response {\nheader -Content-Length\nrespond `{\"error\": \"Invalid signature\"}` 401\n}\n}\n{proxy}",
			sends: forgedEvents, want: wantRefused}, "the backend got"},
		{"forwards what is unsigned", scenario{routes: "{proxy}", sends: unsignedEvents, want: wantRefused}, "answered 200"},
		{"refuses what is signed", scenario{routes: "instantapi_verify other-secret {\nverify_only\n}\n{proxy}", want: wantForwarded}, "answered 401"},
		{"forwards repeats", scenario{routes: "instantapi_verify {secret} {\nverify_only\n}\n{proxy}", sends: knownEvents, want: wantDuplicate}, "answered 200"},
		{"does not start", scenario{routes: "no_such_directive", want: wantForwarded}, "log ends with"},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.scenario.name = plain
			o := short(t, group{size: 1 << 10, connections: 2, scenarios: []scenario{test.scenario}})
			o.duration = 100 * time.Millisecond
			err := runAndReport(t.Context(), o, io.Discard, io.Discard)
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v, want an error that says %q", err, test.says)
			}
		})
	}
}

// A server that answers first and forwards later would do part of its work
// outside its turn.

func TestWhatIsForwardedLaterFailsTheRun(t *testing.T) {
	const says = "the backend got 1 request after"
	send := func(b *bench) {
		res, err := http.Post("http://"+b.backend.addr, "application/json", strings.NewReader("{}"))
		if err != nil {
			t.Error(err)
			return
		}
		res.Body.Close()
	}
	newRun := func(t *testing.T) *bench {
		o := short(t)
		o.duration = 100 * time.Millisecond
		b, err := newBench(t.Context(), o, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(b.close)
		return b
	}
	t.Run("before the next turn", func(t *testing.T) {
		b := newRun(t)
		tmpl, err := newTemplate(1 << 10)
		if err != nil {
			t.Fatal(err)
		}
		run, err := b.start(t.Context(), group{size: 1 << 10, connections: 2}, tmpl, scenarios[0])
		if err != nil {
			t.Fatal(err)
		}
		defer run.stop()
		if _, err := run.turn(t.Context()); err != nil {
			t.Fatal(err)
		}
		send(b)
		if _, err := run.turn(t.Context()); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, want an error that says %q", err, says)
		}
	})
	t.Run("after the last turn", func(t *testing.T) {
		if runtime.GOOS == "windows" {
			t.Skip("Caddy ends without waiting for its requests there")
		}
		b := newRun(t)
		var once sync.Once
		held := make(chan struct{})
		later := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				io.Copy(io.Discard, r.Body)
				once.Do(func() {
					go http.Get("http://" + r.Host)
					<-held
				})
				io.WriteString(w, "later")
				return
			}
			// Caddy waits for this one when it ends, after all turns are over.
			close(held)
			for deadline := time.Now().Add(stopTimeout); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
				conn, err := net.Dial("tcp", r.Host)
				if err != nil {
					break
				}
				conn.Close()
			}
			send(b)
		}))
		defer later.Close()
		b.groups = []group{{size: 1 << 10, connections: 2, scenarios: []scenario{
			{name: plain, routes: "reverse_proxy " + later.Listener.Addr().String(), want: answer{200, "later", false}}}}}
		if err := b.measure(t.Context(), newReport(b)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, want an error that says %q", err, says)
		}
	})
}

// A server that refuses the bodies needs little memory, and must not get a
// figure.

// A server that is slower than the rate makes each request later than the one

// before, and that is what the latency has to show.

// All of these are answered before the clock starts.
