package cli

import (
	"crypto/tls"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
)

// guardedByTLS runs a Caddy that serves a guarded endpoint with a certificate of
// its internal CA, and returns the endpoint's URL and the CA's file.
func guardedByTLS(t *testing.T, b *caddytest.Backend) (url, ca string) {
	t.Helper()
	s := caddytest.New(t)
	data := t.TempDir()
	port := caddytest.Port(s.Addr)
	s.Level = "ERROR"
	config := strings.Replace(s.Global(), "{\n", fmt.Sprintf("{\n\tauto_https disable_redirects\n\tstorage file_system %s\n", caddytest.Quote(data)), 1)
	s.Start(t, config+fmt.Sprintf("https://localhost:%s {\n\ttls internal\n\tinstantapi_verify %s\n\treverse_proxy %s\n}\n", port, testSecret, b.Addr()))
	ca = filepath.Join(data, "pki", "authorities", "local", "root.crt")
	caddytest.Eventually(t, "there is a certificate", func() bool {
		conn, err := tls.Dial("tcp", "localhost:"+port, &tls.Config{InsecureSkipVerify: true})
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return "https://localhost:" + port + "/webhooks/instantapi", ca
}

func TestSendTrustsTheInternalCA(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	url, ca := guardedByTLS(t, b)
	send := func(args ...string) caddytest.Result {
		return runCommand(t, "", append([]string{"send", "--url", url, "--secret", testSecret}, args...)...)
	}
	send("--cacert", ca, "--repeat", "1").Want(t, 0, "200 forwarded", "200 duplicate")
	send("--insecure").Want(t, 0, "200 forwarded")
	send("-k", "--count", "3").Want(t, 0, "forwarded          3")
	send().Want(t, 3, "--- no answer", "certificate", "name its CA with --cacert, or use --insecure")

	other, _, _ := caddytest.Certificate(t)
	send("--cacert", other).Want(t, 3, "--- no answer", "--cacert")
	byIP := strings.Replace(url, "localhost", "127.0.0.1", 1)
	runCommand(t, "", "send", "--url", byIP, "--secret", testSecret, "--cacert", ca).
		Want(t, 3, "--- no answer", "Caddy says this if it has no certificate, or none yet, for the URL's host name")
	b.WantDeliveries(t, 5)
}

func TestSendSaysWhatTLSLacks(t *testing.T) {
	plain := caddytest.NewBackend(t, nil)
	url := strings.Replace(plain.URL, "http://", "https://", 1)
	runCommand(t, "", "send", "--url", url, "--secret", testSecret).
		Want(t, 3, "--- no answer", "should the URL begin with http://?")

	dir := t.TempDir()
	empty, text, none := filepath.Join(dir, "empty.pem"), filepath.Join(dir, "text.pem"), filepath.Join(dir, "none.pem")
	caddytest.WriteFile(t, empty, "")
	caddytest.WriteFile(t, text, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
	for _, command := range []string{"send", "sandbox"} {
		for file, want := range map[string]string{
			empty: empty + " is empty",
			text:  text + " contains no certificate in PEM",
			none:  none,
			dir:   "directory",
			"":    "the path is empty",
		} {
			got := runCommand(t, "", command, "--secret", testSecret, "--cacert", file)
			wantError(t, got, "--cacert: ")
			wantError(t, got, want)
		}
		wantError(t, runCommand(t, "", command, "--secret", testSecret, "--cacert", none, "-k"), "[cacert insecure]")
	}
}

func TestSandboxTrustsTheInternalCA(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	url, ca := guardedByTLS(t, b)
	for _, flags := range [][]string{{"--cacert", ca}, {"--insecure"}} {
		s := startSandbox(t, append(flags, "--secret", testSecret)...)
		s.submit(url)
		s.wrote(1, "attempt 1: 200 OK from the backend")
	}
	s := startSandbox(t, "--secret", testSecret, "--attempts", "1", "--register", url)
	s.wrote(2, "name its CA with --cacert, or use --insecure")
	s.submit(url)
	s.wrote(1, "undelivered")
	b.WantDeliveries(t, 2)
}
