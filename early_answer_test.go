package instantapi

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
)

// earlyAnswers are requests that are answered before their body has been read.
var earlyAnswers = []struct {
	name, method, signature string
	status                  int
}{
	{"too large", "POST", strings.Repeat("0", 64), http.StatusRequestEntityTooLarge},
	{"no signature", "POST", "", http.StatusUnauthorized},
	{"malformed signature", "POST", "abc", http.StatusUnauthorized},
	{"not POST", "PUT", "", http.StatusMethodNotAllowed},
}

const errorPages = "\nhandle_errors {\nrespond \"no: {err.status_code}\" {err.status_code}\n}"

// startRequest sends the header of a request with a body of this size, or in
// chunks if that is below 0.
func startRequest(t *testing.T, s *caddytest.Site, method, header string, size int) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	length := fmt.Sprintf("Content-Length: %d\r\n", size)
	if size < 0 {
		length = "Transfer-Encoding: chunked\r\n"
	}
	fmt.Fprintf(conn, "%s / HTTP/1.1\r\nHost: 127.0.0.1\r\n%s%s\r\n", method, length, header)
	return conn
}

// A sender that writes all of its body before it reads gets its answer, and so
// does one that reads and writes at once, on a site with error routes.
func TestSenderThatWritesOnGetsItsAnswer(t *testing.T) {
	body := bytes.Repeat([]byte("x"), 4<<20+1)
	for _, more := range []string{"", errorPages} {
		b := caddytest.NewBackend(t, nil)
		s := caddytest.Run(t, caddytest.Guard(b, "")+more)
		for _, chunked := range []bool{false, true} {
			for _, test := range earlyAnswers {
				var senders sync.WaitGroup
				for range 5 {
					senders.Go(func() {
						size := len(body)
						if chunked {
							size = -1
						}
						conn := startRequest(t, s, test.method, "X-InstantAPI-Signature: "+test.signature+"\r\n", size)
						written := make(chan struct{})
						go func() {
							defer close(written)
							if chunked {
								fmt.Fprintf(conn, "%x\r\n%s\r\n0\r\n\r\n", len(body), body)
								return
							}
							conn.Write(body)
						}()
						if more == "" {
							<-written
						}
						if status, answer := readReply(t, conn); status != test.status {
							t.Errorf("%s, chunked %t, %q: got %d %s, want %d", test.name, chunked, more, status, answer, test.status)
						}
					})
				}
				senders.Wait()
			}
		}
		b.WantDeliveries(t, 0)
	}
}

// A slow sender gets its answer at once, too, and may write its body to the
// end.
func TestSlowSenderGetsItsAnswer(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s := caddytest.Run(t, caddytest.Guard(b, "max_body_size 1MB"))
	for _, size := range []int{200_000, 2_000_000} {
		start := time.Now()
		conn := startRequest(t, s, "POST", "", size)
		if status, answer := readReply(t, conn); status != http.StatusUnauthorized || time.Since(start) > 300*time.Millisecond {
			t.Errorf("got %d %s after %s", status, answer, time.Since(start))
		}
		for range 8 {
			if _, err := conn.Write(make([]byte, size/8)); err != nil {
				t.Errorf("after %s: %v", time.Since(start), err)
				break
			}
			time.Sleep(300 * time.Millisecond)
		}
	}
}

// Reading on is bounded, both for a sender that falls silent and for one that
// never stops.
func TestReadingOnIsBounded(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	for _, more := range []string{"", errorPages} {
		s := caddytest.Run(t, caddytest.Guard(b, "")+more)
		for name, trickle := range map[string]time.Duration{"silent": time.Hour, "trickling": 200 * time.Millisecond} {
			conn := startRequest(t, s, "POST", "", 10<<20)
			start := time.Now()
			stop := make(chan struct{})
			go func() {
				for {
					select {
					case <-stop:
						return
					case <-time.After(trickle):
						conn.Write([]byte("x"))
					}
				}
			}()
			if status, _ := readReply(t, conn); status != http.StatusUnauthorized {
				t.Errorf("got %d", status)
			}
			if took := time.Since(start); took > time.Second {
				t.Errorf("%s, %q: answer came after %s", name, more, took)
			}
			conn.Read(make([]byte, 1)) // until the guard closes
			if took := time.Since(start); took > lingerTime+5*time.Second {
				t.Errorf("%s, %q: connection was closed after %s", name, more, took)
			}
			close(stop)
		}
	}
}

// A sender that waits to be asked for its body is not asked.
func TestExpectantSenderIsNotAsked(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	for _, more := range []string{"", errorPages} {
		s := caddytest.Run(t, caddytest.Guard(b, "max_body_size 1MB")+more)
		for _, test := range earlyAnswers {
			for _, size := range []int{2_000_000, -1} {
				if test.status == http.StatusRequestEntityTooLarge && size < 0 {
					continue // that is not known before the body has been read
				}
				start := time.Now()
				conn := startRequest(t, s, test.method, "Expect: 100-continue\r\nX-InstantAPI-Signature: "+test.signature+"\r\n", size)
				if status, answer := readReply(t, conn); status != test.status || time.Since(start) > time.Second {
					t.Errorf("%s, %q: got %d %s after %s", test.name, more, status, answer, time.Since(start))
				}
			}
		}
	}
}

// A body that comes too slowly for the server is refused, and the sender, which
// is still writing, learns why.
func TestSenderThatIsTooSlowLearnsThat(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s := caddytest.New(t)
	s.Servers = "timeouts {\nread_body 500ms\n}"
	s.MustLoad(caddytest.Guard(b, ""))
	event := caddytest.Event("1")
	for range 5 {
		conn := startRequest(t, s, "POST", signatureLine(event), len(event))
		for i := range event[:8] {
			if _, err := conn.Write(event[i : i+1]); err != nil {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if status, answer := readReply(t, conn); status != http.StatusRequestTimeout {
			t.Errorf("got %d %s, want 408", status, answer)
		}
	}
	b.WantDeliveries(t, 0)
}

// A connection whose body was read is used again.
func TestConnectionOfARefusedRequestIsUsedAgain(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s := caddytest.Run(t, caddytest.Guard(b, "answer_verification_requests"))
	event := caddytest.Event("1")
	conn, err := net.Dial("tcp", s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	for request, want := range map[string]int{
		rawPost(signatureLine([]byte("x")), event):          http.StatusUnauthorized,
		rawPost(signatureLine([]byte("x")), []byte("x")):    http.StatusBadRequest,
		rawPost("", []byte("ping")):                         http.StatusOK,
		rawPost("", event):                                  http.StatusUnauthorized,
		"DELETE / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n":      http.StatusMethodNotAllowed,
		strings.Replace(rawPost("", nil), "POST", "GET", 1): http.StatusOK,
	} {
		io.WriteString(conn, request)
		if status, answer := readReply(t, conn); status != want {
			t.Errorf("%.60q: got %d %s, want %d", request, status, answer, want)
		}
	}
}

// HTTP/2 tells a sender to stop without ending the connection.
func TestEarlyAnswerOverHTTP2(t *testing.T) {
	cert, key, roots := caddytest.Certificate(t)
	b := caddytest.NewBackend(t, nil)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	for _, more := range []string{"", errorPages} {
		s := caddytest.New(t)
		if err := s.Load(s.Global() + fmt.Sprintf("https://%s {\ntls %s %s\n%s%s\n}",
			s.Addr, caddytest.Quote(cert), caddytest.Quote(key), caddytest.Guard(b, ""), more)); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			for _, test := range earlyAnswers {
				r := caddytest.Unsigned(test.method, "https://"+s.Addr+"/", bytes.Repeat([]byte("x"), 4<<20+1))
				if test.signature != "" {
					r.Header.Set("X-InstantAPI-Signature", test.signature)
				}
				got, err := caddytest.DoWith(&http.Client{Transport: transport}, r)
				if err != nil || got.Status != test.status {
					t.Errorf("%s: got %d %v, want %d", test.name, got.Status, err, test.status)
				}
			}
		}
	}
}

// Node's fetch loses an answer if the connection is reset after it.
func TestNodesFetchGetsItsAnswer(t *testing.T) {
	node := caddytest.LookPath(t, "node")
	const script = `
		const [times, url, method, signature] = process.argv.slice(1);
		for (let i = 0; i < times; i++) {
			try {
				const headers = signature ? {'X-InstantAPI-Signature': signature} : {};
				const res = await fetch(url, {method, headers, body: new Uint8Array(4 * 1024 * 1024 + 1)});
				await res.text();
				console.log(res.status);
			} catch (err) {
				console.log(err.cause?.code ?? String(err));
			}
		}`
	b := caddytest.NewBackend(t, nil)
	for _, more := range []string{"", errorPages} {
		s := caddytest.Run(t, caddytest.Guard(b, "")+more)
		for i, test := range earlyAnswers {
			times := 3
			if i == 0 {
				times = 10
			}
			output, err := exec.CommandContext(caddytest.Timeout(t), node, "--input-type=module", "-e", script,
				strconv.Itoa(times), s.URL("/"), test.method, test.signature).CombinedOutput()
			if want := strings.Repeat(fmt.Sprintln(test.status), times); err != nil || string(output) != want {
				t.Errorf("%s, %q: got %q %v, want only %d", test.name, more, output, err, test.status)
			}
		}
	}
}

// Go's client, and with it the command send, gives up when a write fails.
func TestGosClientGetsItsAnswer(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s := caddytest.Run(t, caddytest.Guard(b, ""))
	for range 10 {
		for _, test := range earlyAnswers {
			r := caddytest.Unsigned(test.method, s.URL("/"), bytes.Repeat([]byte("x"), 4<<20+1))
			if test.signature != "" {
				r.Header.Set("X-InstantAPI-Signature", test.signature)
			}
			if got, err := caddytest.DoWith(caddytest.Sender, r); err != nil || got.Status != test.status {
				t.Errorf("%s: got %d %v, want %d", test.name, got.Status, err, test.status)
			}
		}
	}
}
