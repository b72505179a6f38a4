package cli

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
)

// stubAdmin runs an admin endpoint that answers a request for a backup, and
// returns its address. It keeps what was asked.
func stubAdmin(t *testing.T, status int, answer string) (address string, asked *atomic.Value) {
	t.Helper()
	asked = new(atomic.Value)
	asked.Store("")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		asked.Store(fmt.Sprintf("%s %s %s %s", r.Method, r.URL, r.Header.Get("Content-Type"), body))
		w.WriteHeader(status)
		io.WriteString(w, answer)
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String(), asked
}

func TestBackupAsksTheRunningCaddy(t *testing.T) {
	const answer = `{"directory":"/copies/one","events":1234,"bytes":57344,"took":"1s"}` + "\n"
	address, asked := stubAdmin(t, http.StatusOK, answer)
	dir := t.TempDir()
	cmd := instantapiCommand(t, "backup", "copies/one", "--address", address)
	cmd.Dir = dir
	caddytest.Finish(t, cmd, nil).Want(t, 0, "Wrote 1,234 events, 56 KiB, to /copies/one\n")
	want := fmt.Sprintf(`POST /instantapi_verify/backup application/json {"directory":%q}`, filepath.Join(dir, "copies", "one"))
	if got := asked.Load(); got != want {
		t.Errorf("it asked %s, want %s", got, want)
	}
	got := runCommand(t, "", "backup", dir, "--address", address, "--json")
	got.Want(t, 0, answer)
	if got.Stdout != answer {
		t.Errorf("it printed %s, want the answer as it is", got.Stdout)
	}
}

func TestBackupSaysWhatWentWrong(t *testing.T) {
	for _, test := range []struct {
		name   string
		status int
		answer string
		want   string
	}{
		{"refused", http.StatusConflict, `{"error":"/copies is not empty"}`, "Error: /copies is not empty\n"},
		{"another version", http.StatusNotFound, "404 page not found\n", "does the running Caddy have this version of instantapi_verify?"},
		{"no reason", http.StatusInternalServerError, "oops", "HTTP 500: oops"},
		{"something else", http.StatusOK, "<html>", "does not answer like the admin API"},
	} {
		t.Run(test.name, func(t *testing.T) {
			address, _ := stubAdmin(t, test.status, test.answer)
			wantError(t, runCommand(t, "", "backup", "copies", "--address", address), test.want)
		})
	}
	address, asked := stubAdmin(t, http.StatusOK, "{}")
	for _, args := range [][]string{nil, {""}, {"one", "two"}} {
		wantError(t, runCommand(t, "", append([]string{"backup", "--address", address}, args...)...), "give one directory")
	}
	if got := asked.Load(); got != "" {
		t.Errorf("it asked all the same: %s", got)
	}
}

// A backup of a running Caddy is a store with which another Caddy knows what was
// delivered.
func TestBackupOpensAsAStore(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s, _, _ := runAdminSite(t, b)
	s.post(t, s.hook, "task.completed", "a", caddytest.FromBackend)
	directory := filepath.Join(t.TempDir(), "copy")
	s.ask(t, "backup", directory).Want(t, 0, "Wrote 1 event, ", " to "+directory)
	wantError(t, s.ask(t, "backup", directory), "empty")

	restored := caddytest.New(t)
	restored.Store, restored.Level = directory, "ERROR"
	restored.Start(t, restored.Caddyfile("instantapi_verify {\n\tsecret "+testSecret+"\n\tscope "+hookScope(s.hook)+"\n}\nreverse_proxy "+b.Addr()))
	known := caddytest.EventOf("task.completed", "a")
	restored.Post(t, "/elsewhere", known).WantDuplicate(t)
	b.WantDeliveries(t, 1)
}

// hookScope is the default scope of a URL: its host and its path.
func hookScope(url string) string {
	host, path, _ := strings.Cut(strings.TrimPrefix(url, "http://"), "/")
	host, _, _ = strings.Cut(host, ":")
	return host + "/" + path
}
