package cli

import (
	"strings"
	"testing"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
	"github.com/instantapi/caddy-instantapi-verify/signature"
)

func TestVerifyExitStatuses(t *testing.T) {
	body := string(caddytest.Event("1"))
	sig := signature.Sign(testSecret, []byte(body))
	runCommand(t, body, "verify", "--secret", testSecret, "--signature", sig).
		Want(t, 0, "valid: made with the secret")
	runCommand(t, body, "verify", "--secret", "old", "--secret", testSecret, "--signature", "sha256="+strings.ToUpper(sig)).
		Want(t, 0, "valid: made with --secret number 2")
	runCommand(t, body, "verify", "--secret", "old", "--secret-env", "TEST_SECRET", "--signature", sig).
		Want(t, 0, "valid: made with the secret in TEST_SECRET")
	got := runCommand(t, body+"\n", "verify", "--secret", testSecret, "--signature", sig)
	got.Want(t, 2, "invalid", "without white space at the end")
	if got.Stderr != "" {
		t.Errorf("standard error is %q", got.Stderr)
	}
	runCommand(t, body, "verify", "--secret", testSecret, "--signature", "").Want(t, 2, "invalid", "it is empty")
}
