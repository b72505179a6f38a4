package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/signature"
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

// short is a run that measures nothing worth knowing, but all of it.
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

// What is fast because it is wrong must not come out as a figure.
func TestWrongAnswersFailTheRun(t *testing.T) {
	respond := "respond `" + backendAnswer + "` 200"
	for _, test := range []struct {
		name string
		scenario
		says string
	}{
		{"does not forward", scenario{routes: respond, want: wantForwarded}, "the backend got 0"},
		{"forwards another body", scenario{routes: "request_body {\nset `{}`\n}\n{proxy}", want: wantForwarded}, "bodies that nobody sent"},
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

// A server that answers first and forwards later would do so in nobody's turn.
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
			// One that Caddy waits for when it ends: the turns are over then.
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

func TestSlowSendersAreMeasured(t *testing.T) {
	o := short(t)
	o.slowSenders = 3
	var out bytes.Buffer
	if err := runAndReport(t.Context(), o, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"3 senders of bodies of 4.0 MiB", "guard", "768 KiB"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

// A server that has refused the bodies needs little memory, which is no figure.
func TestRefusedSlowSendersFailTheRun(t *testing.T) {
	o := short(t)
	o.slowSenders = 3
	b, err := newBench(t.Context(), o, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	tmpl, err := newTemplate(announced)
	if err != nil {
		t.Fatal(err)
	}
	for routes, says := range map[string]string{
		"intercept {\nhandle_response {\nrespond 503\n}\n}\n{proxy}": "sender 1: answered 503",
		"respond `" + backendAnswer + "` 200":                        "sender 1|the backend got 0", // the answer may be lost with the connection
	} {
		_, err := b.sendSlowly(t.Context(), tmpl, scenario{name: plain, routes: routes, want: wantForwarded})
		if err == nil || !regexp.MustCompile(says).MatchString(err.Error()) {
			t.Errorf("%s: got %v, want an error that says %q", routes, err, says)
		}
	}
}

// A server that is slower than the rate makes each request later than the one
// before, and that is what the latency has to show.
func TestLatencyCountsFromWhenARequestWasDue(t *testing.T) {
	const takes = 50 * time.Millisecond
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		time.Sleep(takes)
		io.WriteString(w, "late")
	}))
	defer slow.Close()
	tmpl, err := newTemplate(1 << 10)
	if err != nil {
		t.Fatal(err)
	}
	stamps, err := tmpl.sign(0, 100)
	if err != nil {
		t.Fatal(err)
	}
	l := &load{addr: slow.Listener.Addr().String(), template: tmpl, stamps: stamps,
		want: answer{200, "late", true}, connections: 1, rate: 100, duration: time.Second}
	o, err := l.run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if last := o.latencies[len(o.latencies)-1]; last < 5*takes {
		t.Errorf("the latest answer was %s late", last)
	}
	if o.behind < 70 {
		t.Errorf("behind by %d of 100 requests, though no more than 20 can have been answered", o.behind)
	}
}

func TestOverloadIsReported(t *testing.T) {
	for _, test := range []struct {
		rate        float64
		connections int
		behind      bool
	}{{10, 64, false}, {200_000, 2, true}} {
		o := short(t, group{size: 1 << 10, connections: test.connections, rate: test.rate, scenarios: scenarios[:1]})
		var out strings.Builder
		if err := runAndReport(t.Context(), o, &out, io.Discard); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(out.String(), "plain fell behind by") != test.behind {
			t.Errorf("at %g requests/s:\n%s", test.rate, out.String())
		}
	}
}

// All of these are answered before the clock starts.
func TestWarmUpIsNotCounted(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, "warm")
	}))
	defer server.Close()
	tmpl, err := newTemplate(1 << 10)
	if err != nil {
		t.Fatal(err)
	}
	stamps, err := tmpl.sign(0, 20)
	if err != nil {
		t.Fatal(err)
	}
	l := &load{addr: server.Listener.Addr().String(), template: tmpl, stamps: stamps,
		want: answer{200, "warm", true}, connections: 2, warmup: time.Minute, duration: time.Minute}
	o, err := l.run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if o.sent != len(stamps) || o.requests != 0 || len(o.latencies) != 0 {
		t.Errorf("%d sent, %d counted with %d latencies, want 20, 0 and 0", o.sent, o.requests, len(o.latencies))
	}
}

func TestEventsAreSigned(t *testing.T) {
	for _, size := range []int{minimumSize, minimumSize + 1, 1 << 10, 64 << 10} {
		tmpl, err := newTemplate(size)
		if err != nil {
			t.Fatal(err)
		}
		if len(tmpl.body) != size || !json.Valid(tmpl.body) {
			t.Fatalf("%d bytes, want %d of JSON: %s", len(tmpl.body), size, tmpl.body)
		}
		stamps, err := tmpl.sign(1<<40-1, 2)
		if err != nil {
			t.Fatal(err)
		}
		r := tmpl.request("localhost", newEvents)
		for i := range stamps {
			r.set(&stamps[i])
			_, body, _ := bytes.Cut(r.wire, []byte("\r\n\r\n"))
			sig := "X-InstantAPI-Signature: " + signature.Sign(secret, body) + "\r\n"
			if !bytes.Contains(r.wire, []byte(sig)) {
				t.Errorf("no %s in %.400s", sig, r.wire)
			}
			if number, ok := tmpl.number(body); !ok || number != 1<<40-1+uint64(i) {
				t.Errorf("event %d became %d, %t", i, number, ok)
			}
			for _, at := range []int{0, tmpl.numberAt - 1, size - 1} {
				body[at] ^= 1
				if _, ok := tmpl.number(body); ok {
					t.Errorf("a change of byte %d is not noticed", at)
				}
				body[at] ^= 1
			}
		}
		genuine := stamps[1]
		if forge(stamps); stamps[1] == genuine {
			t.Error("the forgery is genuine")
		}
	}
	if _, err := newTemplate(minimumSize - 1); err == nil {
		t.Error("a body can't be that small")
	}
}

func TestOptions(t *testing.T) {
	o, err := parseOptions([]string{"--only", "repeats", "--sizes", "1KiB,2MiB", "--connections", "1,16,64"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if len(o.groups) != 6 || len(o.groups[0].scenarios) != 2 || o.groups[0].scenarios[0].name != plain || o.groups[5].size != 2<<20 {
		t.Errorf("got %+v", o.groups)
	}
	if o, err = parseOptions([]string{"--rounds", "2"}, io.Discard); err != nil || len(o.groups) != len(defaultGroups()) {
		t.Errorf("not the default set: %v, %+v", err, o.groups)
	}
	for args, says := range map[string]string{
		"--only nonsense":  "there is no scenario",
		"--sizes 1":        "is not a size",
		"--sizes 5MiB":     "is not a size",
		"--connections 0":  "is not a number",
		"--rate 0":         "more than 0",
		"--rounds 0":       "above 0",
		"--plot plot.docx": "ends with none of",
		"--bogus":          "not defined",
		"guard":            "unexpected argument",
	} {
		if _, err := parseOptions(strings.Fields(args), io.Discard); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: got %v, want an error that says %q", args, err, says)
		}
	}
	var help strings.Builder
	if _, err := parseOptions([]string{"-h"}, &help); !errors.Is(err, flag.ErrHelp) || !strings.Contains(help.String(), "-slow-senders") {
		t.Errorf("got %v and %s", err, help.String())
	}
}
