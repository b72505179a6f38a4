package cli

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
)

func TestMain(m *testing.M) { caddytest.Main(m, caddytest.Hooks{}) }

const testSecret = caddytest.Secret

// instantapiCommand prepares `caddy instantapi`, with the test's secret in an
// environment variable.
func instantapiCommand(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := caddytest.Command(t, append([]string{"instantapi"}, args...)...)
	cmd.Env = append(cmd.Env, "TEST_SECRET="+testSecret, "EMPTY_SECRET=")
	return cmd
}

// runCommand runs `caddy instantapi` to its end.
func runCommand(t *testing.T, stdin string, args ...string) caddytest.Result {
	t.Helper()
	cmd := instantapiCommand(t, args...)
	cmd.Stdin = strings.NewReader(stdin)
	return caddytest.Finish(t, cmd, nil)
}

// runSite runs a Caddy with these routes in a process of its own.
func runSite(t *testing.T, routes string) *caddytest.Site {
	t.Helper()
	s := caddytest.New(t)
	s.Admin, s.Level = caddytest.FreeAddr(t), "ERROR"
	s.Start(t, s.Caddyfile(routes))
	return s
}

// guarded runs a Caddy with a guard in front of a backend, and returns the
// endpoint's URL.
func guarded(t *testing.T, b *caddytest.Backend) (url string) {
	t.Helper()
	return runSite(t, `
		@guarded not path /open
		instantapi_verify @guarded `+testSecret+`
		reverse_proxy `+b.Addr()).URL("/webhooks/instantapi")
}
