package cli

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/signature"
)

// adminSite is a Caddy with a guard in front of a backend, to ask about events.
type adminSite struct {
	site
	hook string // the URL that the tests' events go to
}

// runAdminSite runs one whose store is empty. What goes to /slow is not answered
// before release is closed.
func runAdminSite(t *testing.T, b *backend) (s adminSite, slow *backend, release chan struct{}) {
	t.Helper()
	release = make(chan struct{})
	slow = newBackend(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	s.site = runSite(t, `
		instantapi_verify `+testSecret+`
		reverse_proxy /slow `+slow.addr()+`
		reverse_proxy `+b.addr())
	s.hook = s.url("/webhooks/instantapi")
	return s, slow, release
}

// post sends an event, and wants this text in the answer, which must be 200.
func (s adminSite) post(t *testing.T, url, eventType, taskID, answer string) {
	t.Helper()
	body, err := sampleEvent(eventType, taskID, "Made up by a test", nil)
	if err != nil {
		t.Fatal(err)
	}
	target, err := parseWebhookURL(url)
	if err != nil {
		t.Fatal(err)
	}
	r, err := webhookRequest(t.Context(), http.MethodPost, target, body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set(signature.DefaultHeader, signature.Sign(testSecret, body))
	status, got, err := exchange(client, r, 20*time.Second)
	if err != nil || status != http.StatusOK || !strings.Contains(got, answer) {
		t.Errorf("%s of %s got %d %s %v, want 200 %s", eventType, taskID, status, got, err, answer)
	}
}

const (
	fromBackend = "from the backend"
	asDuplicate = `"duplicate": true`
)

// ask runs one of the commands that ask a running Caddy.
func (s adminSite) ask(t *testing.T, args ...string) commandResult {
	t.Helper()
	return runCommand(t, "", append(args, "--address", s.admin)...)
}

// wantError checks that a command failed and says so for a person.
func (got commandResult) wantError(t *testing.T, text string) {
	t.Helper()
	if got.status != 1 || !strings.Contains(got.stderr, "Error: ") || !strings.Contains(got.stderr, text) || got.stdout != "" {
		t.Errorf("exit status %d, want 1 and an error with %q; it printed %q and to standard error %q", got.status, text, got.stdout, got.stderr)
	}
}

func TestAdminCommandsThatCannotAsk(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	runCommand(t, "", "status", "--address", fixedAddr(t)).wantError(t, "refused")
	runCommand(t, "", "status", "--config", none).wantError(t, none)
	runCommand(t, "", "status", "extra").wantError(t, "extra")
	runCommand(t, "", "lookup", "--nonsense").wantError(t, "unknown flag")
}
