package cli

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
)

// adminSite is a Caddy with a guard in front of a backend, to ask about events.
type adminSite struct {
	*caddytest.Site
	hook string // the URL that the tests' events go to
}

// runAdminSite runs one whose store is empty. What goes to /slow is not answered
// before release is closed.
func runAdminSite(t *testing.T, b *caddytest.Backend) (s adminSite, slow *caddytest.Backend, release chan struct{}) {
	t.Helper()
	release = make(chan struct{})
	slow = caddytest.NewBackend(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	s.Site = runSite(t, `
		instantapi_verify `+testSecret+`
		reverse_proxy /slow `+slow.Addr()+`
		reverse_proxy `+b.Addr())
	s.hook = s.URL("/webhooks/instantapi")
	caddytest.Eventually(t, "the store is open", func() bool {
		answer, err := http.Get("http://" + s.Admin + "/instantapi_verify/status")
		if err != nil {
			return false
		}
		answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	})
	return s, slow, release
}

// post sends an event, and wants this answer.
func (s adminSite) post(t *testing.T, url, eventType, taskID, answer string) {
	t.Helper()
	caddytest.Do(t, caddytest.Signed(url, caddytest.EventOf(eventType, taskID))).Want(t, http.StatusOK, answer)
}

// ask runs one of the commands that ask a running Caddy.
func (s adminSite) ask(t *testing.T, args ...string) caddytest.Result {
	t.Helper()
	return runCommand(t, "", append(args, "--address", s.Admin)...)
}

// wantError checks that a command failed and says so for a person.
func wantError(t *testing.T, got caddytest.Result, text string) {
	t.Helper()
	if got.Status != 1 || !strings.Contains(got.Stderr, "Error: ") || !strings.Contains(got.Stderr, text) || got.Stdout != "" {
		t.Errorf("exit status %d, want 1 and an error with %q; it printed %q and to standard error %q", got.Status, text, got.Stdout, got.Stderr)
	}
}

func TestAdminCommandsThatCannotAsk(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	wantError(t, runCommand(t, "", "status", "--address", caddytest.FreeAddr(t)), "refused")
	wantError(t, runCommand(t, "", "status", "--config", none), none)
	wantError(t, runCommand(t, "", "status", "extra"), "extra")
	wantError(t, runCommand(t, "", "lookup", "--nonsense"), "unknown flag")
}
