package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
)

// runningSandbox is the command as a user runs it, in this process.
type runningSandbox struct {
	t      *testing.T
	url    string
	key    string
	out    caddytest.Output
	cancel context.CancelFunc
	ended  chan struct{}
	err    error // how it ended
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
	caddytest.Eventually(s.t, what, func() bool { return ok(s.out.String()) })
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

// submit submits a task and returns its ID.
func (s *runningSandbox) submit(webhook string) string {
	s.t.Helper()
	return s.submitBody(fmt.Sprintf(`{"task":"summarize","input":"A text","options":{"length":"short"},"webhook_url":%q}`, webhook))
}

func (s *runningSandbox) submitBody(body string) string {
	s.t.Helper()
	got := caddytest.Do(s.t, s.request(http.MethodPost, sandboxPath, body))
	var answer struct {
		TaskID string `json:"task_id"`
	}
	if err := json.Unmarshal([]byte(got.Body), &answer); err != nil || got.Status != http.StatusOK || answer.TaskID == "" {
		s.t.Fatalf("got %d %s, want 200 and a task_id", got.Status, got.Body)
	}
	return answer.TaskID
}
