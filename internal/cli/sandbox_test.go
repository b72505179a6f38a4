package cli

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
)

func TestSandboxEndsInOrder(t *testing.T) {
	ctx, release := context.WithCancel(t.Context())
	slow := caddytest.NewBackend(t, func(http.ResponseWriter, *http.Request) { <-ctx.Done() })
	s := startSandbox(t, "--backoff", "30s")
	t.Cleanup(release)
	going := s.submit(slow.URL)
	waiting := s.submit("http://" + caddytest.FreeAddr(t))
	s.wrote(1, "again in ")
	caddytest.Eventually(t, "an attempt goes on", func() bool { return len(slow.Deliveries()) == 1 })

	s.cancel()
	s.wrote(1, waiting+" task.completed undelivered")
	caddytest.Eventually(t, "it takes no more tasks", func() bool {
		_, err := caddytest.Sender.Do(s.request(http.MethodPost, sandboxPath, ""))
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
	for _, sig := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			sandbox := caddytest.Start(t, instantapiCommand(t, "sandbox", "--listen", "127.0.0.1:0"))
			sandbox.WaitFor(t, "taking tasks")
			sandbox.Signal(t, sig)
			if err := sandbox.Wait(t); err != nil {
				t.Error(err)
			}
			if !strings.Contains(sandbox.Output(), "ended; events undelivered: 0") {
				t.Error("it does not say how it ended")
			}
		})
	}
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
		{[]string{"--listen", ":0"}, "the demo key is not for :0, which other machines can reach; set --key-env"},
		{[]string{"--listen", "0.0.0.0:0"}, "the demo key is not for"},
		{[]string{"--listen", ":0", "--key", sandboxKey}, "the demo key is not for"},
		{[]string{hidden}, "takes flags only"},
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
	// With a key of its own, the sandbox may be reachable from other machines.
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
	target := caddytest.NewBackend(t, nil)
	with := strings.Replace(target.URL, "http://", "http://user:"+token+"@", 1) + "/hook?token=" + token
	s := startSandbox(t, "--key-env", "KEY", "--secret-env", "SECRET", "--attempts", "1", "--register", with)

	s.key = "wrong-" + token
	caddytest.Do(t, s.request(http.MethodPost, sandboxPath, "")).WantJSON(t, http.StatusUnauthorized, `{"error":"Invalid API key"}`)
	s.key = key
	s.submit(with)
	s.wrote(1, "attempt 1: 200 OK")
	s.submit("http://" + caddytest.FreeAddr(t) + "/hook?token=" + token)
	s.wrote(1, "undelivered")
	got := caddytest.Do(t, s.request(http.MethodPost, sandboxPath, `{"task":"summarize","webhook_url":"ftp://`+token+`"}`))
	if got.Status != http.StatusBadRequest || strings.Contains(got.Body, token) {
		t.Errorf("got %d %s", got.Status, got.Body)
	}
	s.end()
	for _, credential := range []string{key, secret, token} {
		if strings.Contains(s.out.String(), credential) {
			t.Errorf("%s is in the output", credential)
		}
	}
	checkSignature(t, target.Deliveries()[2], secret) // after the two of --register
}
