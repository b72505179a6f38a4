package examples_test

import (
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
)

func TestMain(m *testing.M) { caddytest.Main(m, caddytest.Hooks{}) }

const (
	demoSecret = "demo-secret" // the quick start's
	oldSecret  = "old-secret"
)

// environ is what the examples expect to find in Caddy's environment.
var environ = []string{
	"INSTANTAPI_WEBHOOK_SECRET=" + demoSecret,
	"INSTANTAPI_WEBHOOK_SECRET_OLD=" + oldSecret,
}

// caddy returns a command of Caddy in that environment.
func caddy(t *testing.T, args ...string) *exec.Cmd {
	cmd := caddytest.Command(t, args...)
	cmd.Env = append(cmd.Env, environ...)
	return cmd
}

// addresses maps the addresses in an example to those used in a test.
type addresses map[string]string

// run starts Caddy with an example's config, which listens on :8080, and
// returns the URL to use instead.
func run(t *testing.T, config string, replace addresses, env ...string) (url string) {
	t.Helper()
	port := caddytest.FreePort(t)
	text := replaceAddress(t, caddytest.ReadFile(t, config), ":8080", ":"+port)
	for from, to := range replace {
		text = replaceAddress(t, text, from, to)
	}
	path := filepath.Join(t.TempDir(), filepath.Base(config))
	caddytest.WriteFile(t, path, text)
	cmd := caddy(t, "run", "--config", path)
	cmd.Env = append(cmd.Env, env...)
	caddytest.Start(t, cmd).WaitFor(t, "serving initial configuration")
	return "http://127.0.0.1:" + port
}

func replaceAddress(t *testing.T, text, from, to string) string {
	t.Helper()
	if !strings.Contains(text, from) {
		t.Fatalf("the example doesn't use %s any more", from)
	}
	return strings.ReplaceAll(text, from, to)
}

// event returns an event's body.
func event(eventType, taskID string) string { return string(caddytest.EventOf(eventType, taskID)) }

// call is a request, and the answer that it must get.
type call struct {
	name   string
	path   string // default: /webhooks/instantapi
	body   string
	secret string // default: demoSecret
	status int    // default: 200
	answer string // in the answer's body; default: not a duplicate's
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
	got := caddytest.Do(t, caddytest.SignedWith(secret, url+path, []byte(c.body)))
	if got.Status != status || !strings.Contains(got.Body, c.answer) {
		t.Errorf("%s: got %d %s, want %d and %q in it", c.name, got.Status, got.Body, status, c.answer)
	}
	if c.answer != caddytest.Duplicate && strings.Contains(got.Body, caddytest.Duplicate) {
		t.Errorf("%s: got %s, want it not to be a duplicate", c.name, got.Body)
	}
}
