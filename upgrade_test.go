package instantapi

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
)

const noAnswer = `{"error": "No answer"}`

// An upgrade request becomes an ordinary one at the guard, which has read the
// body by then.
func TestUpgradeDoesNotGoThrough(t *testing.T) {
	for name, lines := range map[string]string{
		"h2c, as Java's client asks": "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n",
		"websocket":                  "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n",
		"in odd spelling":            "connection: keep-alive, uPgRaDe\r\nuPGRADE: WebSocket\r\n",
		"without a Connection":       "Upgrade: websocket\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			b := caddytest.NewBackend(t, nil)
			s := caddytest.Run(t, caddytest.Guard(b, ""))
			event := caddytest.Event("1")
			for _, want := range []string{caddytest.FromBackend, caddytest.Duplicate} {
				if status, body := rawRequest(t, s.Addr, rawPost(signatureLine(event)+lines, event)); status != 200 || body != want {
					t.Errorf("got %d %s, want %s", status, body, want)
				}
			}
			b.WantBodies(t, string(event))
			for _, got := range b.Deliveries() {
				for _, name := range []string{"Upgrade", "Connection", "Http2-Settings"} {
					if value := got.Header.Get(name); value != "" {
						t.Errorf("backend got %s: %s", name, value)
					}
				}
			}
		})
	}
}

// switchingBackend answers each request with 101 and these header lines, and
// counts what arrives after that.
type switchingBackend struct {
	addr                string
	requests, tunnelled atomic.Int32
}

func newSwitchingBackend(t *testing.T, lines string) *switchingBackend {
	t.Helper()
	b := new(switchingBackend)
	b.addr = caddytest.Serve(t, func(conn net.Conn) { b.serve(conn, lines) })
	return b
}

func (b *switchingBackend) serve(conn net.Conn, lines string) {
	in := bufio.NewReader(conn)
	r, err := http.ReadRequest(in)
	if err != nil {
		return
	}
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return
	}
	b.requests.Add(1)
	fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\n%s\r\n", lines)
	conn.SetDeadline(time.Now().Add(2 * time.Second))
	n, _ := io.Copy(io.Discard, in)
	b.tunnelled.Add(int32(n))
}

// A 101 is not a delivery, and opens no tunnel.
func TestSwitchingProtocolsIsNoDelivery(t *testing.T) {
	for _, lines := range []string{
		"", "Connection: Upgrade\r\nUpgrade: websocket\r\n", "Upgrade: h2c\r\n", "Connection: Upgrade\r\nUpgrade: \xfc\r\n",
		"Upgrade: \r\n", "Connection: Upgrade\r\n", "Connection: Upgrade\r\nUpgrade: h2c, websocket\r\nContent-Length: 5\r\n",
	} {
		for _, asked := range []string{"", "Connection: Upgrade\r\nUpgrade: websocket\r\n"} {
			t.Run(lines+" to "+asked, func(t *testing.T) {
				b := newSwitchingBackend(t, lines)
				s := caddytest.Run(t, "instantapi_verify "+caddytest.Secret+"\nreverse_proxy "+b.addr)
				event := caddytest.Event("1")
				for range 2 {
					request := rawPost(signatureLine(event)+asked, event)
					status, body := rawRequest(t, s.Addr, request+"GET /unsigned HTTP/1.1\r\n\r\n")
					if status != http.StatusBadGateway || body != noAnswer {
						t.Errorf("got %d %s, want 502", status, body)
					}
				}
				if n := b.requests.Load(); n != 2 {
					t.Errorf("backend got %d requests, want 2: nothing was delivered", n)
				}
				if n := b.tunnelled.Load(); n > 0 {
					t.Errorf("%d bytes reached the backend behind the guard's back", n)
				}
			})
		}
	}
}

func TestSwitchingProtocolsIsNoDeliveryOverHTTP2(t *testing.T) {
	for _, lines := range []string{"", "Connection: Upgrade\r\nUpgrade: websocket\r\n"} {
		b := newSwitchingBackend(t, lines)
		cert, key, roots := caddytest.Certificate(t)
		s := caddytest.New(t)
		if err := s.Load(s.Global() + fmt.Sprintf("https://%s {\ntls %s %s\ninstantapi_verify %s\nreverse_proxy %s\n}",
			s.Addr, caddytest.Quote(cert), caddytest.Quote(key), caddytest.Secret, b.addr)); err != nil {
			t.Fatal(err)
		}
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}
		defer transport.CloseIdleConnections()
		for range 2 {
			got, err := caddytest.DoWith(&http.Client{Transport: transport}, caddytest.Signed("https://"+s.Addr+"/", caddytest.Event("1")))
			if err != nil {
				t.Fatal(err)
			}
			got.WantJSON(t, http.StatusBadGateway, noAnswer)
		}
		if n := b.requests.Load(); n != 2 {
			t.Errorf("backend got %d requests, want 2", n)
		}
	}
}

// A handler that ends a request without an answer has not accepted the event.
func TestNoAnswerIsNoDelivery(t *testing.T) {
	for _, routes := range []string{"test silent", "header X-Set by-nobody\ntest silent", "test switch", "test switch_and_write"} {
		s := caddytest.Run(t, "route {\ninstantapi_verify "+caddytest.Secret+"\n"+routes+"\n}")
		for range 2 {
			s.Send(t, "1").WantJSON(t, http.StatusBadGateway, noAnswer)
		}
		if log := s.Logged(); strings.Contains(log, `"duplicate`) {
			t.Errorf("%s: an event that nobody took is a duplicate", routes)
		}
	}
}

// No handler behind the guard can take over the sender's connection.
func TestConnectionIsNotGivenAway(t *testing.T) {
	s := caddytest.Run(t, "instantapi_verify "+caddytest.Secret+"\ntest hijack")
	for range 2 {
		if got := s.Send(t, "1"); got.Status != http.StatusInternalServerError {
			t.Errorf("got %d %s, want 500", got.Status, got.Body)
		}
	}
}
