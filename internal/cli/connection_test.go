package cli

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
)

// An answer that comes before the body is read counts, even if the server hangs
// up after it.
func TestEarlyAnswersArrive(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the system throws away what has arrived when a connection is reset")
	}
	certFile, keyFile, roots := caddytest.Certificate(t)
	certificate, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	const answer = "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 9\r\n\r\ntoo large"
	t.Run("http", func(t *testing.T) {
		wantEarlyAnswers(t, "http://"+hangUp(t, answer, nil), nil)
	})
	t.Run("https", func(t *testing.T) {
		address := hangUp(t, answer, &tls.Config{Certificates: []tls.Certificate{certificate}})
		wantEarlyAnswers(t, "https://"+address, &tls.Config{RootCAs: roots})
	})
}

func wantEarlyAnswers(t *testing.T, url string, trust *tls.Config) {
	t.Helper()
	client := webhookClient(trust)
	for i := range 30 {
		status, answer, err := postLarge(t, client, url)
		if status != http.StatusRequestEntityTooLarge || answer != "too large" || err != nil {
			t.Errorf("%d: got %d %q and %v", i, status, answer, err)
		}
	}
}

// postLarge posts more than the buffers on the way can hold.
func postLarge(t *testing.T, client *http.Client, url string) (status int, answer string, err error) {
	t.Helper()
	target, err := parseWebhookURL(url)
	if err != nil {
		t.Fatal(err)
	}
	r, err := webhookRequest(t.Context(), http.MethodPost, target, bytes.Repeat([]byte("x"), 16<<20))
	if err != nil {
		t.Fatal(err)
	}
	return exchange(client, r, 20*time.Second)
}

// hangUp runs a server that reads the header of a request, writes an answer, and
// closes the connection with most of the body unread, which resets it.
func hangUp(t *testing.T, answer string, config *tls.Config) (address string) {
	t.Helper()
	return caddytest.Serve(t, func(conn net.Conn) {
		if config != nil {
			conn = tls.Server(conn, config)
		}
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
			io.WriteString(conn, answer)
		}
	})
}

func TestAServerThatHangsUpWithoutAnAnswerIsReported(t *testing.T) {
	client := webhookClient(nil)
	status, answer, err := postLarge(t, client, "http://"+hangUp(t, "", nil))
	if status != 0 || answer != "" || err == nil || strings.Contains(err.Error(), "within") {
		t.Errorf("got %d %q and %v, want an error that tells of the connection", status, answer, err)
	}
}

// A request that can't be begun fails, so that net/http can send it on another
// connection.
func TestAConnectionTellsOfWhatCannotBeBegun(t *testing.T) {
	ours, theirs := net.Pipe()
	theirs.Close()
	conn := &answeredConn{Conn: ours}
	if _, err := conn.Write([]byte("POST")); err == nil {
		t.Error("the first write of a request has no error")
	}
	conn.begun.Store(true)
	if n, err := conn.Write([]byte("body")); n != 4 || err != nil {
		t.Errorf("a later one has written %d, %v", n, err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	dialed, err := dialAnswered(t.Context(), "tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	dialed.(*answeredConn).begun.Store(true)
	dialed.Close()
	if _, err := dialed.Write([]byte("body")); err == nil {
		t.Error("a write after our own close has no error")
	}
}

func TestSendReportsThatABodyIsTooLarge(t *testing.T) {
	url := guarded(t, caddytest.NewBackend(t, nil))
	file := filepath.Join(t.TempDir(), "large.json")
	caddytest.WriteFile(t, file, `{"text":"`+strings.Repeat("x", 8<<20)+`"}`)
	got := runCommand(t, "", "send", "--url", url, "--secret", testSecret, "--file", file, "--repeat", "9")
	got.Want(t, 2)
	if n := strings.Count(got.Stdout, "413 refused"); n != 10 {
		t.Errorf("%d of 10 have an answer:\n%s", n, got.Stdout)
	}
}
