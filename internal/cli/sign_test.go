package cli

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
	"github.com/instantapi/caddy-instantapi-verify/signature"
)

func TestSignPrintsWhatTheGuardTakes(t *testing.T) {
	body := "{\"task_id\":\"1\"}\r\n"
	file := filepath.Join(t.TempDir(), "event.json")
	if err := os.WriteFile(file, []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
	want := signature.Sign(testSecret, []byte(body)) + "\n"
	for _, got := range []caddytest.Result{
		runCommand(t, body, "sign", "--secret", testSecret),
		runCommand(t, body, "sign", "--secret", testSecret, "--file", "-"),
		runCommand(t, "", "sign", "--secret-env", "TEST_SECRET", "--file", file),
	} {
		if got.Status != 0 || got.Stdout != want || got.Stderr != "" {
			t.Errorf("got %+v, want %q", got, want)
		}
	}
}
