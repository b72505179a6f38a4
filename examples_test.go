package instantapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/signature"
)

const (
	demoSecret = "demo-secret" // the quick start's
	oldSecret  = "old-secret"

	startTimeout = 30 * time.Second
	stopTimeout  = 10 * time.Second
)

// userEnviron is the environment before TestMain gives the tests another home
// directory: the caches of go and npm are in the user's.
var userEnviron = os.Environ()

// TestExamples does with every example what its reader would: it builds
// examples/caddy, runs it with the example's config and the example's backend,
// and sends events. Only the ports are others.
func TestExamples(t *testing.T) {
	caddy := buildCaddy(t)
	drive := map[string]func(*testing.T, exampleCaddy){
		"quickstart": func(t *testing.T, c exampleCaddy) { testQuickstart(t, c, "quickstart/Caddyfile") },
		"json":       func(t *testing.T, c exampleCaddy) { testQuickstart(t, c, "json/caddy.json") },
		"express":    testExpress,
		"flask":      testFlask,
		"rotation":   testRotation,
		"by-type":    testByType,
		"upstreams":  testUpstreams,
		"grafana":    testGrafana,
	}
	configs, err := filepath.Glob("examples/*/*[cC]addy[f.]*")
	if err != nil {
		t.Fatal(err)
	}
	if len(configs) != len(drive) {
		t.Errorf("there are %d configs and %d tests that drive them: %q", len(configs), len(drive), configs)
	}
	for _, config := range configs {
		name := filepath.Base(filepath.Dir(config))
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(config)
			if err != nil {
				t.Fatal(err)
			}
			caddy.checkConfig(t, config, string(text))
			if drive[name] == nil {
				t.Fatal("no test drives this example")
			}
			drive[name](t, caddy)
		})
	}
	t.Run("submit", func(t *testing.T) { testSubmit(t, caddy) })
	t.Run("submit errors", testSubmitErrors)
	t.Run("docs", func(t *testing.T) {
		t.Parallel()
		blocks := regexp.MustCompile("(?s)```caddyfile\n(.*?)```")
		for _, document := range documents(t) {
			for _, block := range blocks.FindAllStringSubmatch(string(readFile(t, document)), -1) {
				path := filepath.Join(t.TempDir(), "Caddyfile")
				writeFile(t, path, block[1])
				caddy.checkConfig(t, path, block[1])
			}
		}
	})
}

func testQuickstart(t *testing.T, c exampleCaddy, config string) {
	url := c.run(t, config, addresses{":8081": ":" + freePort(t)})
	for _, call := range []call{
		{name: "the first is forwarded", body: event("task.completed", "1"), answer: `"by": "backend"`},
		{name: "its repeat is not", body: event("task.completed", "1"), answer: duplicate},
		{name: "a forgery is refused", body: event("task.completed", "2"), secret: "forged", status: 401},
	} {
		call.make(t, url)
	}
}

func testExpress(t *testing.T, c exampleCaddy) {
	port := freePort(t)
	testTutorialBackend(t, c, "express/Caddyfile", port, startExpress(t, port))
}

func startExpress(t *testing.T, port string) *process {
	node, npm := lookPath(t, "node"), lookPath(t, "npm")
	dir := t.TempDir() // so that npm leaves nothing in the tree
	if err := os.CopyFS(dir, os.DirFS("examples/express")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	install := exec.CommandContext(ctx, npm, "install", "--no-audit", "--no-fund", "--no-package-lock")
	install.Dir = dir
	install.Env = userEnviron
	install.WaitDelay = stopTimeout
	if output, err := install.CombinedOutput(); err != nil {
		missing(t, "npm can't install express here: %v\n%s", err, output)
	}
	server := exec.Command(node, "server.js")
	server.Dir = dir
	server.Env = append(slices.Clone(userEnviron), "PORT="+port)
	return startProcess(t, server, "listening on")
}

func testFlask(t *testing.T, c exampleCaddy) {
	port := freePort(t)
	testTutorialBackend(t, c, "flask/Caddyfile", port, startFlask(t, port))
}

func startFlask(t *testing.T, port string) *process {
	// Debian's own first: it has Flask where apt was asked for it, also on a
	// machine whose PATH leads to another Python.
	var python string
	for _, candidate := range []string{"/usr/bin/python3", "python3"} {
		ask := exec.Command(candidate, "-c", "import flask")
		ask.Env = userEnviron // Flask may be in the user's home directory
		if ask.Run() == nil {
			python = candidate
			break
		}
	}
	if python == "" {
		missing(t, "there is no python3 with Flask here (Debian: apt install python3-flask)")
	}
	server := exec.Command(python, "examples/flask/app.py")
	server.Env = append(slices.Clone(userEnviron), "PORT="+port)
	return startProcess(t, server, "Running on")
}

// testTutorialBackend drives one of the tutorial's backends, which write a line
// for each event that gets to them.
func testTutorialBackend(t *testing.T, c exampleCaddy, config, port string, backend *process) {
	c.env = append(c.env, "PORT="+port)
	url := c.run(t, config, nil)
	const received = `"received":`
	large := strings.Replace(event("task.completed", "large"), "{", `{"padding":"`+strings.Repeat("x", 200<<10)+`",`, 1)
	for _, call := range []call{
		{name: "completed", body: event("task.completed", "a"), answer: received},
		{name: "completed again", body: event("task.completed", "a"), answer: duplicate},
		{name: "failed", body: event("task.failed", "b"), answer: received},
		{name: "failed again", body: event("task.failed", "b"), answer: duplicate},
		{name: "another type", body: event("task.cancelled", "c"), answer: received},
		{name: "more than Express takes by default", body: large, answer: received},
		{name: "forged", body: event("task.completed", "forged"), secret: "forged", status: 401},
		{name: "forged, other spelling of the path", path: "/Webhooks/InstantAPI/", body: event("task.completed", "forged"), secret: "forged", status: 401},
		{name: "forged, doubled slash", path: "//webhooks//instantapi", body: event("task.completed", "forged"), secret: "forged", status: 401},
		{name: "forged, dot segment", path: "/x/../webhooks/instantapi", body: event("task.completed", "forged"), secret: "forged", status: 401},
		// The last one, so that whatever came through before it stands before it.
		{name: "completed after failed", body: event("task.completed", "b"), answer: received},
	} {
		call.make(t, url)
	}
	backend.waitFor(t, "task.completed b ")
	want := []string{"task.completed a", "task.failed b", "ignored task.cancelled c", "task.completed large", "task.completed b"}
	if got := regexp.MustCompile(`(?m)^(task|ignored)\.?\S* \S+( c)?`).FindAllString(backend.output(), -1); !slices.Equal(got, want) {
		t.Errorf("the backend got %q, want %q", got, want)
	}
	testOddEvents(t, url, backend)
}

func testRotation(t *testing.T, c exampleCaddy) {
	backend := newRecorder(t)
	url := c.run(t, "rotation/Caddyfile", addresses{"127.0.0.1:3000": backend.address})
	for _, call := range []call{
		{name: "old secret", body: event("task.completed", "1"), secret: oldSecret},
		{name: "new secret", body: event("task.completed", "2")},
		{name: "a repeat stays one, signed with the other secret", body: event("task.completed", "1"), answer: duplicate},
		{name: "neither", body: event("task.completed", "3"), secret: "forged", status: 401},
	} {
		call.make(t, url)
	}
	backend.expect(t, event("task.completed", "1"), event("task.completed", "2"))
}

func testByType(t *testing.T, c exampleCaddy) {
	completed, failed := newRecorder(t), newRecorder(t)
	url := c.run(t, "by-type/Caddyfile", addresses{
		"127.0.0.1:3000": completed.address,
		"127.0.0.1:3001": failed.address,
	})
	for _, call := range []call{
		{name: "completed", body: event("task.completed", "1")},
		{name: "failed", body: event("task.failed", "2")},
		{name: "failed again", body: event("task.failed", "2"), answer: duplicate},
		{name: "another type", body: event("task.cancelled", "3")},
		{name: "forged", body: event("task.failed", "4"), secret: "forged", status: 401},
	} {
		call.make(t, url)
	}
	completed.expect(t, event("task.completed", "1"), event("task.cancelled", "3"))
	failed.expect(t, event("task.failed", "2"))
}

func testUpstreams(t *testing.T, c exampleCaddy) {
	body := event("task.completed", strings.Repeat("x", 1<<20)) // more than the buffers in between hold
	for _, test := range []struct {
		name  string
		first func(*testing.T) (address string)
	}{
		{"the first is down", func(t *testing.T) string { return "127.0.0.1:" + freePort(t) }},
		{"the first dies over the event", dyingUpstream},
	} {
		t.Run(test.name, func(t *testing.T) {
			second := newRecorder(t)
			url := c.run(t, "upstreams/Caddyfile", addresses{
				"127.0.0.1:3000": test.first(t),
				"127.0.0.1:3001": second.address,
			})
			for _, call := range []call{
				{name: "forwarded", body: body},
				{name: "duplicate", body: body, answer: duplicate},
			} {
				call.make(t, url)
			}
			second.expect(t, body)
		})
	}
	t.Run("both are up", func(t *testing.T) {
		first, second := newRecorder(t), newRecorder(t)
		url := c.run(t, "upstreams/Caddyfile", addresses{
			"127.0.0.1:3000": first.address,
			"127.0.0.1:3001": second.address,
		})
		call{name: "forwarded", body: body}.make(t, url)
		first.expect(t, body)
		second.expect(t)
	})
}

// testGrafana checks that what the dashboard and the alert rules ask for is in a
// scrape: a name that is misspelt shows nothing, and says so nowhere.
func testGrafana(t *testing.T, c exampleCaddy) {
	backend := newRecorder(t)
	metrics := ":" + freePort(t)
	url := c.run(t, "grafana/Caddyfile", addresses{"127.0.0.1:3000": backend.address, ":9180": metrics})
	for _, call := range []call{
		{name: "forwarded", body: event("task.completed", "1")},
		{name: "duplicate", body: event("task.completed", "1"), answer: duplicate},
		{name: "changed repeat", body: event("task.completed", "1") + " ", answer: duplicate},
		{name: "forged", body: event("task.completed", "2"), secret: "forged", status: 401},
	} {
		call.make(t, url)
	}
	response, err := client.Get("http://127.0.0.1" + metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	scraped, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`caddy_instantapi_verify_requests_total{outcome="forwarded"} 1`,
		`caddy_instantapi_verify_requests_total{outcome="duplicate"} 1`,
		`caddy_instantapi_verify_requests_total{outcome="duplicate_changed"} 1`,
		`caddy_instantapi_verify_signature_errors_total{reason="mismatch"} 1`,
		`caddy_instantapi_verify_secret_matches_total{secret="1"} 3`,
		`caddy_instantapi_verify_events_remembered 1`,
	} {
		if !strings.Contains(string(scraped), line+"\n") {
			t.Errorf("scrape has no line %s", line)
		}
	}
	if !json.Valid(readFile(t, "examples/grafana/dashboard.json")) {
		t.Error("dashboard is not JSON")
	}
	for _, file := range []string{"dashboard.json", "alerts.yml"} {
		text := strings.ReplaceAll(string(readFile(t, filepath.Join("examples/grafana", file))), `\"`, `"`)
		names := regexp.MustCompile(`caddy_instantapi_verify_\w+`).FindAllString(text, -1)
		if len(names) < 3 {
			t.Errorf("%s asks for %d metrics", file, len(names))
		}
		for _, name := range names {
			if !regexp.MustCompile(`(?m)^` + name + `[ {]`).Match(scraped) {
				t.Errorf("%s asks for %s, which is in no scrape", file, name)
			}
		}
		for _, label := range regexp.MustCompile(`(outcome|reason)=~?"([\w|]+)"`).FindAllStringSubmatch(text, -1) {
			for value := range strings.SplitSeq(label[2], "|") {
				if series := fmt.Sprintf("{%s=%q}", label[1], value); !strings.Contains(string(scraped), series) {
					t.Errorf("%s asks for %s, which is in no scrape", file, series)
				}
			}
		}
	}
	t.Run("alerts", func(t *testing.T) {
		promtool := lookPath(t, "promtool")
		if output, err := exec.Command(promtool, "test", "rules", "examples/grafana/alerts_test.yml").CombinedOutput(); err != nil {
			t.Errorf("promtool: %v\n%s", err, output)
		}
	})
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// dyingUpstream takes some of a request's body and hangs up.
func dyingUpstream(t *testing.T) (address string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var ended sync.WaitGroup
	ended.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = io.CopyN(io.Discard, conn, 64<<10)
			_ = conn.Close()
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		ended.Wait()
	})
	return listener.Addr().String()
}

// duplicate is in the answer to an event that was delivered before.
const duplicate = `"duplicate": true`

// event returns an event's body.
func event(eventType, taskID string) string {
	return fmt.Sprintf(`{"event_type":%q,"task_id":%q,"status":"done","result":{"text":"ok"},"usage":{"cost":0.01}}`, eventType, taskID)
}

// call is a request, and what must come of it.
type call struct {
	name   string
	host   string // default: the server's
	path   string // default: /webhooks/instantapi
	body   string
	secret string // default: demoSecret
	status int    // default: 200
	answer string // in the answer's body; default: not duplicate
}

// client follows no redirect: an answer that says "elsewhere" is no delivery.
var client = &http.Client{
	Timeout:       startTimeout,
	Transport:     &http.Transport{DisableKeepAlives: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

func (c call) make(t *testing.T, url string) {
	t.Helper()
	path, secret, status := c.path, c.secret, c.status
	if path == "" {
		path = "/webhooks/instantapi"
	}
	if secret == "" {
		secret = demoSecret
	}
	if status == 0 {
		status = http.StatusOK
	}
	r, err := http.NewRequest(http.MethodPost, url+path, strings.NewReader(c.body))
	if err != nil {
		t.Fatal(err)
	}
	r.Host = c.host
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set(signature.DefaultHeader, signature.Sign(secret, []byte(c.body)))
	response, err := client.Do(r)
	if err != nil {
		t.Fatalf("%s: %v", c.name, err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatalf("%s: %v", c.name, err)
	}
	if response.StatusCode != status || !strings.Contains(string(answer), c.answer) {
		t.Errorf("%s: got %d %s, want %d and %q in it", c.name, response.StatusCode, answer, status, c.answer)
	}
	if c.answer != duplicate && strings.Contains(string(answer), duplicate) {
		t.Errorf("%s: got %s, want it not to be a duplicate", c.name, answer)
	}
}

// recorder is a backend that accepts everything and remembers it.
type recorder struct {
	address string

	mu     sync.Mutex
	bodies []string
}

func newRecorder(t *testing.T) *recorder {
	rec := new(recorder)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			body = []byte(err.Error())
		}
		rec.mu.Lock()
		defer rec.mu.Unlock()
		rec.bodies = append(rec.bodies, string(body))
	}))
	t.Cleanup(server.Close)
	rec.address = server.Listener.Addr().String()
	return rec
}

// expect compares what arrived, byte for byte.
func (rec *recorder) expect(t *testing.T, bodies ...string) {
	t.Helper()
	rec.mu.Lock()
	defer rec.mu.Unlock()
	if !slices.Equal(rec.bodies, bodies) {
		t.Errorf("the backend got %d events %.200q, want %d: %.200q", len(rec.bodies), rec.bodies, len(bodies), bodies)
	}
}

// exampleCaddy is a built examples/caddy, and what the examples expect to find
// in its environment.
type exampleCaddy struct {
	path string
	env  []string
}

func buildCaddy(t *testing.T) exampleCaddy {
	t.Helper()
	path := filepath.Join(t.TempDir(), "caddy.exe") // the name that runs everywhere
	// Without -buildvcs=false it would need git, and a checkout of the same user.
	build := exec.Command("go", "build", "-buildvcs=false", "-o", path, "./examples/caddy")
	build.Env = userEnviron
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building examples/caddy: %v\n%s", err, output)
	}
	return exampleCaddy{path, []string{
		"INSTANTAPI_WEBHOOK_SECRET=" + demoSecret,
		"INSTANTAPI_WEBHOOK_SECRET_OLD=" + oldSecret,
	}}
}

// command returns a command of Caddy, with a data directory and an admin
// endpoint of its own: this machine may well run another Caddy.
func (c exampleCaddy) command(t *testing.T, args ...string) *exec.Cmd {
	home := t.TempDir()
	cmd := exec.Command(c.path, args...)
	cmd.Env = slices.Concat(os.Environ(), c.env, []string{
		"HOME=" + home,
		"XDG_DATA_HOME=" + filepath.Join(home, "data"),
		"XDG_CONFIG_HOME=" + filepath.Join(home, "config"),
		"CADDY_ADMIN=127.0.0.1:" + freePort(t),
	})
	return cmd
}

// checkConfig checks that Caddy takes a config as it stands, and that `caddy
// fmt` would not write it differently.
func (c exampleCaddy) checkConfig(t *testing.T, path, text string) {
	t.Helper()
	if output, err := c.command(t, "validate", "--config", path).CombinedOutput(); err != nil {
		t.Errorf("caddy validate: %v\n%s", err, output)
	}
	if filepath.Ext(path) == ".json" {
		return
	}
	if output, err := c.command(t, "adapt", "--validate", "--config", path).CombinedOutput(); err != nil {
		t.Errorf("caddy adapt: %v\n%s", err, output)
	}
	if formatted, _ := c.command(t, "fmt", path).Output(); string(formatted) != text {
		t.Errorf("caddy fmt changes it to:\n%s", formatted)
	}
}

// addresses maps what an example listens on, or forwards to, to what it does in
// a test.
type addresses map[string]string

// run starts Caddy with an example, which listens on :8080, and returns the URL
// that stands for it.
func (c exampleCaddy) run(t *testing.T, config string, replace addresses) (url string) {
	t.Helper()
	return c.runText(t, filepath.Base(config), readFile(t, filepath.Join("examples", config)), replace)
}

// runText is run with a config that is in no file of the examples.
func (c exampleCaddy) runText(t *testing.T, name string, text []byte, replace addresses) (url string) {
	t.Helper()
	port := freePort(t)
	text = replaceAddress(t, text, ":8080", ":"+port)
	for from, to := range replace {
		text = replaceAddress(t, text, from, to)
	}
	path := filepath.Join(t.TempDir(), name)
	writeFile(t, path, string(text))
	startProcess(t, c.command(t, "run", "--config", path), "serving initial configuration")
	return "http://127.0.0.1:" + port
}

func replaceAddress(t *testing.T, text []byte, from, to string) []byte {
	t.Helper()
	if !bytes.Contains(text, []byte(from)) {
		t.Fatalf("the example doesn't use %s any more", from)
	}
	return bytes.ReplaceAll(text, []byte(from), []byte(to))
}

// process is a running program and what it has written.
type process struct {
	name  string
	ended chan struct{}

	mu      sync.Mutex
	written bytes.Buffer
}

// startProcess starts a program, waits until it has written that it is ready,
// and ends it with the test.
func startProcess(t *testing.T, cmd *exec.Cmd, ready string) *process {
	t.Helper()
	p := &process{name: filepath.Base(cmd.Path), ended: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p, p
	cmd.WaitDelay = stopTimeout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		_ = cmd.Wait() // it is interrupted in the end, which some call a failure
	}()
	t.Cleanup(func() {
		p.end(cmd.Process)
		if t.Failed() {
			t.Logf("%s wrote:\n%s", p.name, p.output())
		}
	})
	p.waitFor(t, ready)
	return p
}

// end asks the program to end, and makes it.
func (p *process) end(process *os.Process) {
	if process.Signal(os.Interrupt) == nil { // which Windows can't
		select {
		case <-p.ended:
			return
		case <-time.After(stopTimeout):
		}
	}
	_ = process.Kill()
	<-p.ended
}

// Write implements io.Writer, for the program.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.written.Write(b)
}

func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.written.String()
}

func (p *process) waitFor(t *testing.T, text string) {
	t.Helper()
	for deadline := time.Now().Add(startTimeout); !strings.Contains(p.output(), text); {
		select {
		case <-p.ended:
			t.Fatalf("%s ended without writing %q", p.name, text)
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s has not written %q in %s", p.name, text, startTimeout)
		}
	}
}

// missing ends a test that needs something that this machine lacks. In CI
// nothing may be lacking: a test that silently does not run proves nothing.
func missing(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("INSTANTAPI_VERIFY_TEST_ALL") == "1" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

func lookPath(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		missing(t, "%v", err)
	}
	return path
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

var portsTaken sync.Map

// freePort returns a port that nobody listens on. It is below those that
// systems give to outgoing connections: one of these could take it before the
// program that it is meant for does.
func freePort(t *testing.T) string {
	t.Helper()
	for range 100 {
		port := strconv.Itoa(20_000 + rand.IntN(12_000))
		if _, taken := portsTaken.LoadOrStore(port, true); taken {
			continue
		}
		if listener, err := net.Listen("tcp", ":"+port); err == nil {
			_ = listener.Close()
			return port
		}
	}
	t.Fatal("found no free port")
	return ""
}
