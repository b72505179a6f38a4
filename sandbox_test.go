package instantapi

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/signature"
)

// runningSandbox is the command as a user runs it, in this process.
type runningSandbox struct {
	t      *testing.T
	url    string
	key    string
	out    output
	cancel context.CancelFunc
	ended  chan struct{}
	err    error // how it ended
}

// output is what a program has written so far.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// startSandbox runs the command until the test ends. Its tasks take no time
// unless args say otherwise.
func startSandbox(t *testing.T, args ...string) *runningSandbox {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	s := &runningSandbox{t: t, key: sandboxKey, cancel: cancel, ended: make(chan struct{})}
	cmd := newSandboxCommand()
	cmd.SetArgs(append([]string{"--listen", "127.0.0.1:0", "--delay", "0s", "--backoff", "10ms"}, args...))
	cmd.SetOut(&s.out)
	cmd.SetErr(&s.out)
	go func() {
		defer close(s.ended)
		s.err = cmd.ExecuteContext(ctx)
	}()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the sandbox wrote:\n%s", s.out.String())
		}
	})
	t.Cleanup(s.end)
	address := regexp.MustCompile(`taking tasks on (http://\S+)`)
	s.waitFor("it takes tasks", func(out string) bool { return address.MatchString(out) })
	s.url = address.FindStringSubmatch(s.out.String())[1]
	return s
}

// end ends it as a signal would. It may be called more than once.
func (s *runningSandbox) end() {
	s.t.Helper()
	s.cancel()
	<-s.ended
	if s.err != nil {
		s.t.Errorf("the sandbox ended with %v", s.err)
	}
}

func (s *runningSandbox) waitFor(what string, ok func(out string) bool) {
	s.t.Helper()
	eventually(s.t, what, func() bool { return ok(s.out.String()) })
}

// wrote waits until there are n lines with this text.
func (s *runningSandbox) wrote(n int, text string) {
	s.t.Helper()
	s.waitFor(fmt.Sprintf("%d lines with %q", n, text), func(out string) bool { return strings.Count(out, text) == n })
}

func (s *runningSandbox) request(method, path, body string) *http.Request {
	s.t.Helper()
	r, err := http.NewRequest(method, strings.TrimSuffix(s.url, sandboxPath)+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+s.key)
	return r
}

// submit hands in a task and returns its ID.
func (s *runningSandbox) submit(webhook string) string {
	s.t.Helper()
	return s.submitBody(fmt.Sprintf(`{"task":"summarize","input":"A text","options":{"length":"short"},"webhook_url":%q}`, webhook))
}

func (s *runningSandbox) submitBody(body string) string {
	s.t.Helper()
	got := do(s.t, s.request(http.MethodPost, sandboxPath, body))
	var answer struct {
		TaskID string `json:"task_id"`
	}
	if err := json.Unmarshal([]byte(got.body), &answer); err != nil || got.status != http.StatusOK || answer.TaskID == "" {
		s.t.Fatalf("got %d %s, want 200 and a task_id", got.status, got.body)
	}
	return answer.TaskID
}

func TestSandboxAnswers(t *testing.T) {
	target := newBackend(t, nil)
	s := startSandbox(t)
	const path = sandboxPath
	task := fmt.Sprintf(`{"task":"summarize","input":"A text","webhook_url":%q}`, target.URL)
	with := func(from, to string) string { return strings.Replace(task, from, to, 1) }
	const badURL = `{"error":"webhook_url must be an absolute http or https URL"}`
	tests := []struct {
		name         string
		method, path string
		authorize    []string
		body         string
		status       int
		answer       string
	}{
		{"unknown path", "POST", "/", nil, task, 404, `{"error":"Not found"}`},
		{"path with a slash at its end", "POST", path + "/", nil, task, 404, `{"error":"Not found"}`},
		{"doubled slash", "POST", "/" + path, nil, task, 404, `{"error":"Not found"}`},
		{"GET", "GET", path, nil, "", 405, `{"error":"Method not allowed"}`},
		{"a browser that asks for another page", "OPTIONS", path, nil, "", 405, `{"error":"Method not allowed"}`},
		{"no key", "POST", path, []string{}, task, 401, `{"error":"Invalid API key"}`},
		{"empty key", "POST", path, []string{"Bearer "}, task, 401, `{"error":"Invalid API key"}`},
		{"wrong key", "POST", path, []string{"Bearer " + sandboxKey + "x"}, task, 401, `{"error":"Invalid API key"}`},
		{"part of the key", "POST", path, []string{"Bearer demo"}, task, 401, `{"error":"Invalid API key"}`},
		{"other scheme", "POST", path, []string{"Basic " + sandboxKey}, task, 401, `{"error":"Invalid API key"}`},
		{"key alone", "POST", path, []string{sandboxKey}, task, 401, `{"error":"Invalid API key"}`},
		{"two keys", "POST", path, []string{"Bearer " + sandboxKey, "Bearer " + sandboxKey}, task, 401, `{"error":"Invalid API key"}`},
		{"no body", "POST", path, nil, "", 400, `{"error":"Invalid JSON"}`},
		{"half an object", "POST", path, nil, task[:20], 400, `{"error":"Invalid JSON"}`},
		{"two objects", "POST", path, nil, task + task, 400, `{"error":"Invalid JSON"}`},
		{"an array", "POST", path, nil, "[]", 400, `{"error":"The body must be a JSON object"}`},
		{"no task", "POST", path, nil, with(`"task"`, `"tusk"`), 400, `{"error":"task is missing"}`},
		{"name in other letters", "POST", path, nil, with(`"task"`, `"Task"`), 400, `{"error":"task is missing"}`},
		{"empty task", "POST", path, nil, with(`"summarize"`, `""`), 400, `{"error":"task is missing"}`},
		{"number for a task", "POST", path, nil, with(`"summarize"`, `5`), 400, `{"error":"task must be a string"}`},
		{"no webhook_url", "POST", path, nil, with(`"webhook_url"`, `"webhook"`), 400, `{"error":"webhook_url is missing"}`},
		{"object for a webhook_url", "POST", path, nil, with(`"`+target.URL+`"`, `{}`), 400, `{"error":"webhook_url must be a string"}`},
		{"relative webhook_url", "POST", path, nil, with(target.URL, "/webhooks"), 400, badURL},
		{"webhook_url without a scheme", "POST", path, nil, with(target.URL, "localhost:8080/webhooks"), 400, badURL},
		{"webhook_url without a host", "POST", path, nil, with(target.URL, "http://:8080/"), 400, badURL},
		{"webhook_url of a file", "POST", path, nil, with(target.URL, "file:///etc/passwd"), 400, badURL},
		{"webhook_url with a line break", "POST", path, nil, with(target.URL, `http://localhost/\n`), 400, badURL},
		{"deepest input that JSON may have", "POST", path, nil, with(`"A text"`, strings.Repeat("[", 9999)+strings.Repeat("]", 9999)), 400, `{"error":"input is nested too deeply"}`},
		{"largest body", "POST", path, nil, with("A text", strings.Repeat("x", sandboxMaxBody+6-len(task))), 200, ""},
		{"larger body", "POST", path, nil, with("A text", strings.Repeat("x", sandboxMaxBody+7-len(task))), 413, `{"error":"Body too large"}`},
		{"scheme in small letters", "POST", path, []string{"bearer " + sandboxKey}, task, 200, ""},
	}
	accepted := 0
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := s.request(test.method, test.path, test.body)
			if test.authorize != nil {
				r.Header["Authorization"] = test.authorize
			}
			got := do(t, r)
			if test.status == 200 {
				accepted++
				if got.status != 200 || !regexp.MustCompile(`^{"task_id":"task_[a-z2-7]{12}"}$`).MatchString(got.body) {
					t.Errorf("got %d %s, want a task_id", got.status, got.body)
				}
				return
			}
			got.wantJSON(t, test.status, test.answer)
			if allow := got.header.Get("Allow"); (allow == "POST") != (test.status == 405) {
				t.Errorf("Allow is %q", allow)
			}
			if scheme := got.header.Get("WWW-Authenticate"); (scheme == "Bearer") != (test.status == 401) {
				t.Errorf("WWW-Authenticate is %q", scheme)
			}
		})
	}
	s.wrote(accepted, "attempt 1: 200")
	target.wantDeliveries(t, accepted) // and none for what was refused
}

func TestSandboxRefusesABodyThatEndsEarly(t *testing.T) {
	s := startSandbox(t)
	conn, err := net.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(s.url, "http://"), sandboxPath))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Length: 100\r\n\r\n{", sandboxPath, sandboxKey)
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(answer, []byte("400 Bad Request")) || !bytes.Contains(answer, []byte(`{"error":"Incomplete body"}`)) {
		t.Errorf("got %s", answer)
	}
}

func TestSandboxEvent(t *testing.T) {
	for _, test := range []struct{ failRate, eventType, status, result string }{
		{"0", "task.completed", "completed", `{"text":"What the sandbox makes of summarize","input":{"cut":"` + "\ufffd" + `"}}`},
		{"1", "task.failed", "failed", `{"error":"The sandbox lets this task fail","input":{"cut":"` + "\ufffd" + `"}}`},
	} {
		t.Run(test.eventType, func(t *testing.T) {
			target := newBackend(t, nil)
			t.Setenv("THE_SECRET", testSecret)
			s := startSandbox(t, "--secret-env", "THE_SECRET", "--fail-rate", test.failRate)
			id := s.submitBody(fmt.Sprintf(`{"task":"summarize","input":{"cut":"\ud83d"},"webhook_url":"%s/hook?a=b"}`, target.URL))
			s.wrote(1, id+" "+test.eventType+" attempt 1: 200 OK from the backend")

			got := target.deliveries()[0]
			s.wrote(1, id+" accepted, in 0s "+target.URL+"/hook gets "+string(got.body))
			if got.Method != http.MethodPost || got.RequestURI != "/hook?a=b" || got.Header.Get("Content-Type") != "application/json" {
				t.Errorf("got %s %s with Content-Type %q", got.Method, got.RequestURI, got.Header.Get("Content-Type"))
			}
			checkSignature(t, got, testSecret)
			var event struct {
				EventType string          `json:"event_type"`
				TaskID    string          `json:"task_id"`
				Status    string          `json:"status"`
				Result    json.RawMessage `json:"result"`
				Usage     struct {
					Cost *float64 `json:"cost"`
				} `json:"usage"`
			}
			dec := json.NewDecoder(bytes.NewReader(got.body))
			dec.DisallowUnknownFields()
			if err := dec.Decode(&event); err != nil {
				t.Fatal(err)
			}
			if event.EventType != test.eventType || event.TaskID != id || event.Status != test.status ||
				string(event.Result) != test.result || event.Usage.Cost == nil {
				t.Errorf("got the event %s", got.body)
			}
		})
	}
}

// checkSignature checks a delivery as the guard does.
func checkSignature(t *testing.T, d delivery, secret string) {
	t.Helper()
	verifier, err := signature.NewVerifier(secret)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := signature.Parse(d.Header.Values(signature.DefaultHeader))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verifier.Verify(d.body, sig); err != nil {
		t.Error(err)
	}
}

func TestSandboxRetries(t *testing.T) {
	elsewhere := newBackend(t, nil)
	release := make(chan struct{})
	var mu sync.Mutex
	var times []time.Time
	target := newBackend(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		times = append(times, time.Now())
		attempt := len(times)
		mu.Unlock()
		switch attempt {
		case 1:
			http.Error(w, "not \x1b[31mnow", http.StatusServiceUnavailable)
		case 2:
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		case 3:
			<-release
		case 4:
			panic(http.ErrAbortHandler)
		default:
			w.WriteHeader(http.StatusNoContent)
		}
	})
	s := startSandbox(t, "--timeout", "2s", "--backoff", "200ms")
	t.Cleanup(func() { close(release) }) // before the sandbox ends, which waits for it
	id := s.submit(target.URL)
	for _, line := range []string{
		" attempt 1: 503 Service Unavailable not �[31mnow, again in ",
		" attempt 2: 307 Temporary Redirect redirected to " + elsewhere.URL + ", which senders need not follow, again in ",
		" attempt 3: no answer: no whole answer within 2s, again in ",
		" attempt 4: no answer: EOF, again in ",
		" attempt 5: 204 No Content\n",
	} {
		s.wrote(1, id+" task.completed"+line)
	}
	s.end()
	s.wrote(1, "events undelivered: 0")
	elsewhere.wantDeliveries(t, 0)

	attempts := target.deliveries()
	if len(attempts) != 5 {
		t.Fatalf("there were %d attempts, want 5", len(attempts))
	}
	for _, attempt := range attempts {
		checkSignature(t, attempt, sandboxSecret)
		if !bytes.Equal(attempt.body, attempts[0].body) {
			t.Errorf("an attempt sends %s, the first one sent %s", attempt.body, attempts[0].body)
		}
	}
	// At least half of 200, 400, 800 and 1600 ms, and in one of the pauses the time that
	// the attempt took.
	for i, atLeast := range []time.Duration{100, 200, 400, 800} {
		if pause := times[i+1].Sub(times[i]); pause < atLeast*time.Millisecond {
			t.Errorf("attempt %d came %s after the one before, want at least %d ms", i+2, pause, atLeast)
		}
	}
}

// TestSandboxPrintsNothingThatATerminalObeys has to do with a webhook_url and with
// a server that want to write on the screen.
func TestSandboxPrintsNothingThatATerminalObeys(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	endless := []byte("X-Long: " + strings.Repeat("x", 1000) + "\r\n")
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				r, err := http.ReadRequest(bufio.NewReader(conn))
				if err != nil {
					return
				}
				io.WriteString(conn, "HTTP/1.1 500 \x1b[31mRED\a\r\n")
				for r.URL.Path == "/endless" && err == nil {
					_, err = conn.Write(endless)
				}
				io.WriteString(conn, "Content-Length: 2\r\n\r\nok")
			}()
		}
	}()
	s := startSandbox(t, "--attempts", "1")
	target := "http://" + listener.Addr().String()
	s.submit(target)
	s.submit(target + "/endless")
	s.submit(target + "/" + strings.Repeat("long", 10000))
	s.submit("http://a%C2%9B31mb.localhost/")
	s.submit("http://" + strings.Repeat("long", 10000) + ".localhost/")
	s.wrote(5, "undelivered")
	s.wrote(2, ": 500 Internal Server Error ok, given up")
	s.wrote(1, fmt.Sprintf("server response headers exceeded %d bytes", maxAnswer))
	for line := range strings.Lines(s.out.String()) {
		if strings.ContainsAny(line, "\x1b\a\u009b") || len(line) > 1000 {
			t.Errorf("it printed %d bytes: %.300q", len(line), line)
		}
	}
}

func TestSandboxGivesUp(t *testing.T) {
	target := newBackend(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	s := startSandbox(t, "--attempts", "3")
	id := s.submit(target.URL)
	s.wrote(1, id+" task.completed attempt 3: 500 Internal Server Error, given up")
	s.wrote(1, id+" task.completed undelivered")
	nobody := s.submit("http://" + fixedAddr(t))
	s.wrote(1, nobody+" task.completed undelivered")
	if !regexp.MustCompile(nobody + ` task\.completed attempt 3: no answer: dial tcp .*, given up`).MatchString(s.out.String()) {
		t.Error("it does not say why nobody could be reached")
	}
	s.end()
	s.wrote(1, "events undelivered: 2")
	target.wantDeliveries(t, 3)
}

func TestSandboxDeliversTwice(t *testing.T) {
	var mu sync.Mutex
	failed := map[string]bool{}
	target := newBackend(t, nil)
	target.answer = func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if !failed[r.URL.Path] {
			failed[r.URL.Path] = true
			w.WriteHeader(http.StatusBadGateway)
		}
	}
	s := startSandbox(t, "--duplicate-rate", "1")
	const tasks = 10
	for i := range tasks {
		s.submit(fmt.Sprintf("%s/%d", target.URL, i))
	}
	s.wrote(tasks, "again in")
	for i := range 2 {
		copies := regexp.MustCompile(fmt.Sprintf(`copy %d of 2 attempt \d: 200`, i+1))
		s.waitFor("all copies are delivered", func(out string) bool { return len(copies.FindAllString(out, -1)) == tasks })
	}
	s.end()
	s.wrote(1, "events undelivered: 0")
	bodies := map[string]int{}
	for _, d := range target.deliveries() {
		bodies[string(d.body)]++
	}
	for body, n := range bodies {
		if n != 3 { // twice, and once more for the attempt that failed
			t.Errorf("%s came %d times, want 3", body, n)
		}
	}
	if len(bodies) != tasks {
		t.Errorf("there were %d events, want %d", len(bodies), tasks)
	}
}

func TestSandboxRegisters(t *testing.T) {
	target := run(t, `
		instantapi_verify {
			secret `+sandboxSecret+`
			answer_verification_requests
		}
		respond "from the backend"`)
	s := startSandbox(t, "--register", target.url("/hook?token=tell-nobody"))
	out := s.out.String()
	for _, line := range []string{
		"registering " + target.url("/hook") + `, unsigned GET: 200 OK {"received": true}`,
		"registering " + target.url("/hook") + `, unsigned POST: 200 OK {"received": true}`,
	} {
		if !strings.Contains(out, line) || strings.Index(out, line) > strings.Index(out, "taking tasks") {
			t.Errorf("it did not first write %q", line)
		}
	}
	s.submit(target.url("/hook"))
	s.wrote(1, "attempt 1: 200 OK from the backend")

	strict := run(t, "instantapi_verify "+sandboxSecret)
	s = startSandbox(t, "--register", strict.url("/"))
	s.wrote(1, `unsigned GET: 405 Method Not Allowed {"error": "Method not allowed"}`)
	s.wrote(1, `unsigned POST: 401 Unauthorized {"error": "Invalid signature"}`)
	s = startSandbox(t, "--register", "http://"+fixedAddr(t)) // runs all the same
	s.wrote(2, ": no answer: dial tcp ")
}

func TestSandboxEndsInOrder(t *testing.T) {
	ctx, release := context.WithCancel(t.Context())
	slow := newBackend(t, func(http.ResponseWriter, *http.Request) { <-ctx.Done() })
	s := startSandbox(t, "--backoff", "30s")
	t.Cleanup(release)
	going := s.submit(slow.URL)
	waiting := s.submit("http://" + fixedAddr(t))
	s.wrote(1, "again in ")
	eventually(t, "an attempt goes on", func() bool { return len(slow.deliveries()) == 1 })

	s.cancel()
	s.wrote(1, waiting+" task.completed undelivered")
	eventually(t, "it takes no more tasks", func() bool {
		_, err := doWith(sender, s.request(http.MethodPost, sandboxPath, ""))
		return err != nil
	})
	select {
	case <-s.ended:
		t.Fatal("it ended in the middle of an attempt")
	case <-time.After(100 * time.Millisecond):
	}
	release()
	s.end()
	s.wrote(1, going+" task.completed attempt 1: 200 OK")
	s.wrote(1, "ended; events undelivered: 1")
}

// TestSandboxEndsAtASignal runs the command the way users do.
func TestSandboxEndsAtASignal(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a process can't be sent signals here")
	}
	program, err := caddyProgram()
	if err != nil {
		t.Fatal(err)
	}
	for _, sig := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			var out output
			cmd := exec.Command(program, "instantapi", "sandbox", "--listen", "127.0.0.1:0")
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			t.Cleanup(func() { _ = cmd.Process.Kill() })
			eventually(t, "it takes tasks", func() bool { return strings.Contains(out.String(), "taking tasks") })
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-ended:
				if err != nil || !strings.Contains(out.String(), "ended; events undelivered: 0") {
					t.Errorf("ended with %v and wrote:\n%s", err, out.String())
				}
			case <-time.After(20 * time.Second):
				t.Error("it did not end")
			}
		})
	}
}

func TestSandboxIsBounded(t *testing.T) {
	target := newBackend(t, nil)
	s := startSandbox(t, "--delay", "1h")
	for range sandboxMaxPending {
		s.submit(target.URL)
	}
	got := do(t, s.request(http.MethodPost, sandboxPath, fmt.Sprintf(`{"task":"summarize","webhook_url":%q}`, target.URL)))
	got.wantJSON(t, http.StatusServiceUnavailable, `{"error":"Too many pending tasks"}`)
	if got.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	s.end()
	s.wrote(1, fmt.Sprintf("events undelivered: %d", sandboxMaxPending))
	target.wantDeliveries(t, 0)
}

func TestSandboxFlags(t *testing.T) {
	const hidden = "tell-nobody"
	t.Setenv("EMPTY", "")
	t.Setenv("KEY", hidden)
	ended, end := context.WithCancel(t.Context())
	end() // so that a sandbox that should not have started goes at once
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"--fail-rate", "1.1"}, "--fail-rate must be from 0 to 1"},
		{[]string{"--fail-rate", "NaN"}, "--fail-rate must be from 0 to 1"},
		{[]string{"--duplicate-rate", "-0.1"}, "--duplicate-rate must be from 0 to 1"},
		{[]string{"--delay", "-1s"}, "--delay must not be negative"},
		{[]string{"--timeout", "0s"}, "--timeout must be more than 0"},
		{[]string{"--backoff", "0s"}, "--backoff must be more than 0"},
		{[]string{"--backoff", "1h"}, "at most 30s"},
		{[]string{"--attempts", "0"}, "--attempts must be at least 1"},
		{[]string{"--key", ""}, "--key is empty"},
		{[]string{"--secret", ""}, "--secret is empty"},
		{[]string{"--key-env", "EMPTY"}, "--key-env: this environment variable is unset or empty"},
		{[]string{"--secret-env", hidden}, "--secret-env: this environment variable is unset or empty"},
		{[]string{"--secret-env", ""}, "--secret-env: this environment variable is unset or empty"},
		{[]string{"--key", hidden, "--key-env", "KEY"}, "give one --key-env or --key, not several"},
		{[]string{"--secret", hidden, "--secret-env", "KEY"}, "give one --secret-env or --secret, not several"},
		{[]string{"--register", "localhost:8080"}, "--register must be an absolute http or https URL"},
		{[]string{"--listen", "8090"}, "--listen takes a host and a port"},
		{[]string{"--listen", ":0"}, "the demo key is not for :0, which others can reach: set --key-env"},
		{[]string{"--listen", "0.0.0.0:0"}, "the demo key is not for"},
		{[]string{"--listen", ":0", "--key", sandboxKey}, "the demo key is not for"},
		{[]string{hidden}, "everything is given with flags"},
	} {
		cmd := newSandboxCommand()
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetErr(&out)
		cmd.SetArgs(slices.Concat([]string{"--listen", "127.0.0.1:0"}, test.args))
		err := cmd.ExecuteContext(ended)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: got %v, want %q", test.args, err, test.want)
		}
		if strings.Contains(out.String(), hidden) {
			t.Errorf("%q: a credential is in the output:\n%s", test.args, out.String())
		}
	}
	// With a key of its own others may reach it.
	listener, err := sandboxListen("0.0.0.0:0", hidden)
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
}

func TestSandboxKeepsSecrets(t *testing.T) {
	const key, secret, token = "key-tell-nobody", "secret-tell-nobody", "token-tell-nobody"
	t.Setenv("KEY", key)
	t.Setenv("SECRET", secret)
	target := newBackend(t, nil)
	with := strings.Replace(target.URL, "http://", "http://user:"+token+"@", 1) + "/hook?token=" + token
	s := startSandbox(t, "--key-env", "KEY", "--secret-env", "SECRET", "--attempts", "1", "--register", with)

	s.key = "wrong-" + token
	do(t, s.request(http.MethodPost, sandboxPath, "")).wantJSON(t, http.StatusUnauthorized, `{"error":"Invalid API key"}`)
	s.key = key
	s.submit(with)
	s.wrote(1, "attempt 1: 200 OK")
	s.submit("http://" + fixedAddr(t) + "/hook?token=" + token)
	s.wrote(1, "undelivered")
	got := do(t, s.request(http.MethodPost, sandboxPath, `{"task":"summarize","webhook_url":"ftp://`+token+`"}`))
	if got.status != http.StatusBadRequest || strings.Contains(got.body, token) {
		t.Errorf("got %d %s", got.status, got.body)
	}
	s.end()
	for _, credential := range []string{key, secret, token} {
		if strings.Contains(s.out.String(), credential) {
			t.Errorf("%s is in the output", credential)
		}
	}
	checkSignature(t, target.deliveries()[2], secret) // after the two of --register
}
