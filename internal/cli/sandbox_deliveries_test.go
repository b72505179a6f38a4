package cli

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
)

func TestSandboxRetries(t *testing.T) {
	elsewhere := caddytest.NewBackend(t, nil)
	release := make(chan struct{})
	var mu sync.Mutex
	var times []time.Time
	target := caddytest.NewBackend(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		times = append(times, time.Now())
		attempt := len(times)
		mu.Unlock()
		switch attempt {
		case 1:
			http.Error(w, "not \x1b[31mnow", http.StatusServiceUnavailable)
		case 2:
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		case 3:
			<-release
		case 4:
			panic(http.ErrAbortHandler)
		default:
			w.WriteHeader(http.StatusNoContent)
		}
	})
	s := startSandbox(t, "--timeout", "2s", "--backoff", "200ms")
	t.Cleanup(func() { close(release) }) // before the sandbox ends, which waits for it
	id := s.submit(target.URL)
	for _, line := range []string{
		" attempt 1: 503 Service Unavailable not �[31mnow, again in ",
		" attempt 2: 307 Temporary Redirect redirected to " + elsewhere.URL + ", which senders need not follow, again in ",
		" attempt 3: no answer: no whole answer within 2s, again in ",
		" attempt 4: no answer: EOF, again in ",
		" attempt 5: 204 No Content\n",
	} {
		s.wrote(1, id+" task.completed"+line)
	}
	s.end()
	s.wrote(1, "events undelivered: 0")
	elsewhere.WantDeliveries(t, 0)

	attempts := target.Deliveries()
	if len(attempts) != 5 {
		t.Fatalf("there were %d attempts, want 5", len(attempts))
	}
	for _, attempt := range attempts {
		checkSignature(t, attempt, sandboxSecret)
		if !bytes.Equal(attempt.Body, attempts[0].Body) {
			t.Errorf("an attempt sends %s, the first one sent %s", attempt.Body, attempts[0].Body)
		}
	}
	// The pauses are at least half of 200, 400, 800 and 1600 ms, and one of
	// them includes the time that the attempt took.
	for i, atLeast := range []time.Duration{100, 200, 400, 800} {
		if pause := times[i+1].Sub(times[i]); pause < atLeast*time.Millisecond {
			t.Errorf("attempt %d came %s after the one before, want at least %d ms", i+2, pause, atLeast)
		}
	}
}

// TestSandboxPrintsNothingThatATerminalObeys tries a webhook_url and a server
// that send control characters.
func TestSandboxPrintsNothingThatATerminalObeys(t *testing.T) {
	endless := []byte("X-Long: " + strings.Repeat("x", 1000) + "\r\n")
	addr := caddytest.Serve(t, func(conn net.Conn) {
		r, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			return
		}
		io.WriteString(conn, "HTTP/1.1 500 \x1b[31mRED\a\r\n")
		for r.URL.Path == "/endless" && err == nil {
			_, err = conn.Write(endless)
		}
		io.WriteString(conn, "Connection: close\r\nContent-Length: 2\r\n\r\nok")
	})
	s := startSandbox(t, "--attempts", "1")
	target := "http://" + addr
	s.submit(target)
	s.submit(target + "/endless")
	s.submit(target + "/" + strings.Repeat("long", 10000))
	s.submit("http://a%C2%9B31mb.localhost/")
	s.submit("http://" + strings.Repeat("long", 10000) + ".localhost/")
	s.wrote(5, "undelivered")
	s.wrote(2, ": 500 Internal Server Error ok, given up")
	s.wrote(1, fmt.Sprintf("server response headers exceeded %d bytes", maxAnswer))
	for line := range strings.Lines(s.out.String()) {
		if strings.ContainsAny(line, "\x1b\a\u009b") || len(line) > 1000 {
			t.Errorf("it printed %d bytes: %.300q", len(line), line)
		}
	}
}

func TestSandboxGivesUp(t *testing.T) {
	target := caddytest.NewBackend(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	s := startSandbox(t, "--attempts", "3")
	id := s.submit(target.URL)
	s.wrote(1, id+" task.completed attempt 3: 500 Internal Server Error, given up")
	s.wrote(1, id+" task.completed undelivered")
	nobody := s.submit("http://" + caddytest.FreeAddr(t))
	s.wrote(1, nobody+" task.completed undelivered")
	if !regexp.MustCompile(nobody + ` task\.completed attempt 3: no answer: dial tcp .*, given up`).MatchString(s.out.String()) {
		t.Error("it does not say why nobody could be reached")
	}
	s.end()
	s.wrote(1, "events undelivered: 2")
	target.WantDeliveries(t, 3)
}

func TestSandboxDeliversTwice(t *testing.T) {
	var mu sync.Mutex
	failed := map[string]bool{}
	target := caddytest.NewBackend(t, nil)
	target.Answer = func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if !failed[r.URL.Path] {
			failed[r.URL.Path] = true
			w.WriteHeader(http.StatusBadGateway)
		}
	}
	s := startSandbox(t, "--duplicate-rate", "1")
	const tasks = 10
	for i := range tasks {
		s.submit(fmt.Sprintf("%s/%d", target.URL, i))
	}
	s.wrote(tasks, "again in")
	for i := range 2 {
		copies := regexp.MustCompile(fmt.Sprintf(`copy %d of 2 attempt \d: 200`, i+1))
		s.waitFor("all copies are delivered", func(out string) bool { return len(copies.FindAllString(out, -1)) == tasks })
	}
	s.end()
	s.wrote(1, "events undelivered: 0")
	bodies := map[string]int{}
	for _, d := range target.Deliveries() {
		bodies[string(d.Body)]++
	}
	for body, n := range bodies {
		if n != 3 { // twice, and once more for the attempt that failed
			t.Errorf("%s came %d times, want 3", body, n)
		}
	}
	if len(bodies) != tasks {
		t.Errorf("there were %d events, want %d", len(bodies), tasks)
	}
}

func TestSandboxRegisters(t *testing.T) {
	target := runSite(t, `
		instantapi_verify {
			secret `+sandboxSecret+`
			answer_verification_requests
		}
		respond "from the backend"`)
	s := startSandbox(t, "--register", target.URL("/hook?token=tell-nobody"))
	out := s.out.String()
	for _, line := range []string{
		"registering " + target.URL("/hook") + `, unsigned GET: 200 OK {"received": true}`,
		"registering " + target.URL("/hook") + `, unsigned POST: 200 OK {"received": true}`,
	} {
		if !strings.Contains(out, line) || strings.Index(out, line) > strings.Index(out, "taking tasks") {
			t.Errorf("it did not first write %q", line)
		}
	}
	s.submit(target.URL("/hook"))
	s.wrote(1, "attempt 1: 200 OK from the backend")

	strict := runSite(t, "instantapi_verify "+sandboxSecret)
	s = startSandbox(t, "--register", strict.URL("/"))
	s.wrote(1, `unsigned GET: 405 Method Not Allowed {"error": "Method not allowed"}`)
	s.wrote(1, `unsigned POST: 401 Unauthorized {"error": "Invalid signature"}`)
	s = startSandbox(t, "--register", "http://"+caddytest.FreeAddr(t)) // runs all the same
	s.wrote(2, ": no answer: dial tcp ")
}
