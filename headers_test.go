package instantapi

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/fcgi"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
	"github.com/instantapi/caddy-instantapi-verify/signature"
	"github.com/instantapi/caddy-instantapi-verify/store/storetest"
)

// forgedNames are the guard's headers as a client may spell them. Caddy drops
// those with an underscore or a dot itself, unless the server allows them.
var forgedNames = []string{
	"X-InstantAPI-Verified", "x-instantapi-VERIFIED", "X_InstantAPI_Verified", "X.InstantAPI-Verified",
	"X-InstantAPI-Deduplicated", "X-InstantAPI_Deduplicated", "Idempotency-Key", "Idempotency_Key", "IDEMPOTENCY.KEY",
}

const allowSpellings = "expected_underscore_headers x_instantapi_verified x-instantapi_deduplicated idempotency_key\n" +
	"expected_dot_headers x.instantapi-verified idempotency.key"

// forgedHeaders returns all of them as lines of a request's header.
func forgedHeaders() string {
	var lines strings.Builder
	for _, name := range forgedNames {
		fmt.Fprintf(&lines, "%s: true\r\n", name)
	}
	return lines.String()
}

// guardHeadersIn returns the values of all headers that a backend may take for
// the guard's, by the guard's spelling.
func guardHeadersIn(header http.Header) map[string][]string {
	got := make(map[string][]string)
	for name, values := range header {
		for _, own := range []string{"X-InstantAPI-Verified", "X-InstantAPI-Deduplicated", "Idempotency-Key", "X-Event-Id"} {
			if strings.EqualFold(strings.NewReplacer("_", "-", ".", "-").Replace(name), own) {
				got[own] = append(got[own], values...)
			}
		}
	}
	return got
}

// rawRequest sends a request byte for byte and returns the status and the body of
// the answer.
func rawRequest(t *testing.T, addr, request string) (status int, body string) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	return readReply(t, conn)
}

// rawPost returns a POST with these header lines, each ended with a line break.
func rawPost(header string, body []byte) string {
	return fmt.Sprintf("POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n%s\r\n%s", len(body), header, body)
}

func signatureLine(body []byte) string {
	return signature.DefaultHeader + ": " + signature.Sign(caddytest.Secret, body) + "\r\n"
}

// An error route's backend must not take a refused request for a verified one.
func TestRefusedRequestsCarryNoHeaderOfTheGuard(t *testing.T) {
	event := caddytest.Event("1")
	garbage, large := []byte("garbage"), bytes.Repeat([]byte("x"), 2000)
	chunked := func(body []byte) string {
		return fmt.Sprintf("POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\nTrailer: X-InstantAPI-Verified\r\n%s%s\r\n%x\r\n%s\r\n0\r\nX-InstantAPI-Verified: true\r\n\r\n",
			signatureLine(body), forgedHeaders(), len(body), body)
	}
	for name, request := range map[string]string{
		"no signature":        rawPost(forgedHeaders(), event),
		"malformed signature": rawPost("X-InstantAPI-Signature: abc\r\n"+forgedHeaders(), event),
		"two signatures":      rawPost(signatureLine(event)+signatureLine(event)+forgedHeaders(), event),
		"another's signature": rawPost(signatureLine(garbage)+forgedHeaders(), event),
		"GET":                 "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + forgedHeaders() + "\r\n",
		"PUT":                 strings.Replace(rawPost(signatureLine(event)+forgedHeaders(), event), "POST", "PUT", 1),
		"not an event":        rawPost(signatureLine(garbage)+forgedHeaders(), garbage),
		"too large":           rawPost(signatureLine(large)+forgedHeaders(), large),
		"too large, chunked":  chunked(large),
		"with a trailer":      strings.Replace(chunked(event), signatureLine(event), "", 1),
		"upgrade":             rawPost("Connection: Upgrade\r\nUpgrade: websocket\r\n"+forgedHeaders(), event),
	} {
		t.Run(name, func(t *testing.T) {
			b := caddytest.NewBackend(t, nil)
			headers := make(chan http.Header, 1)
			errorPages := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				for name, values := range r.Trailer {
					r.Header[name] = append(r.Header[name], values...)
				}
				headers <- r.Header
			}))
			defer errorPages.Close()
			s := caddytest.New(t)
			s.Servers = allowSpellings
			s.MustLoad(caddytest.Guard(b, "max_body_size 1KB") + "\nhandle_errors {\nreverse_proxy " + errorPages.Listener.Addr().String() + "\n}")
			rawRequest(t, s.Addr, request)
			select {
			case header := <-headers:
				if forged := guardHeadersIn(header); len(forged) > 0 {
					t.Errorf("error route's backend got %v", forged)
				}
				if header.Get("Upgrade") != "" {
					t.Errorf("error route's backend is asked for %s", header.Get("Upgrade"))
				}
			case <-time.After(time.Second): // a body over the limit can't be read
				if !strings.HasPrefix(name, "too large") {
					t.Error("the error route's backend got nothing")
				}
			}
			b.WantDeliveries(t, 0)
		})
	}
}

// Each of the guard's headers is there once, with the guard's value.
func TestForwardedHeadersAreTheGuardsOwn(t *testing.T) {
	for _, test := range []struct{ options, identity string }{
		{"", "Idempotency-Key"},
		{"idempotency_header Idempotency-Key", "Idempotency-Key"},
		{"idempotency_header x-event-id", "X-Event-Id"},
		{"idempotency_header off", ""},
	} {
		t.Run(test.options, func(t *testing.T) {
			b := caddytest.NewBackend(t, nil)
			s := caddytest.New(t)
			s.Servers = allowSpellings
			s.MustLoad(caddytest.Guard(b, test.options))
			event := caddytest.Event("1")
			header := signatureLine(event) + forgedHeaders() + "X-Event-Id: forged\r\n"
			if status, body := rawRequest(t, s.Addr, rawPost(header, event)); status != http.StatusOK {
				t.Fatalf("got %d %s", status, body)
			}
			b.WantDeliveries(t, 1)
			got := guardHeadersIn(b.Deliveries()[0].Header)
			if !slices.Equal(got["X-InstantAPI-Verified"], []string{"true"}) || got["X-InstantAPI-Deduplicated"] != nil {
				t.Errorf("backend got %v", got)
			}
			for _, name := range []string{"Idempotency-Key", "X-Event-Id"} {
				values := got[name]
				if name == "X-Event-Id" && test.identity != name {
					continue // not the guard's then
				}
				if test.identity != name && len(values) > 0 {
					t.Errorf("%s is %q, want none", name, values)
				}
				if test.identity == name && (len(values) != 1 || len(values[0]) != 32) {
					t.Errorf("%s is %q, want an identity", name, values)
				}
			}
		})
	}
}

// Connection names headers that proxies remove, but it can't name the guard's.
func TestHeadersOfTheGuardCantBeNamedAway(t *testing.T) {
	event := caddytest.Event("1")
	for _, lines := range []string{
		"Connection: close, Idempotency-Key, X-InstantAPI-Verified, X-InstantAPI-Deduplicated\r\n",
		"connection: x-instantapi-verified\r\nCONNECTION: IDEMPOTENCY-KEY ,x-instantapi-deduplicated\r\nConnection: close\r\n",
		"Connection: keep-alive, X-InstantAPI-Verified, X-InstantAPI-Signature, Content-Type, Idempotency-Key, X-InstantAPI-Deduplicated\r\nKeep-Alive: timeout=5\r\n",
		"Connection: Upgrade, X-InstantAPI-Deduplicated, Idempotency-Key, X-InstantAPI-Verified\r\nUpgrade: websocket\r\nProxy-Connection: close\r\nTE: trailers\r\n",
	} {
		t.Run(lines, func(t *testing.T) {
			b := caddytest.NewBackend(t, nil)
			s, store := caddytest.RunFaulty(t, caddytest.Guard(b, "on_store_error forward"))
			store.SetFaults(storetest.Always(errors.New("disk on fire")), nil)
			header := signatureLine(event) + "Content-Type: application/json\r\n" + lines
			if status, body := rawRequest(t, s.Addr, rawPost(header, event)); status != http.StatusOK {
				t.Fatalf("got %d %s", status, body)
			}
			b.WantDeliveries(t, 1)
			got := b.Deliveries()[0].Header
			for name, want := range map[string]string{
				"X-Instantapi-Verified": "true", "X-Instantapi-Deduplicated": "false",
				"X-Instantapi-Signature": signature.Sign(caddytest.Secret, event), "Content-Type": "application/json",
			} {
				if got.Get(name) != want {
					t.Errorf("%s is %q, want %q", name, got.Get(name), want)
				}
			}
			if len(got.Get("Idempotency-Key")) != 32 {
				t.Errorf("Idempotency-Key is %q", got.Get("Idempotency-Key"))
			}
			for _, name := range []string{"Connection", "Keep-Alive", "Proxy-Connection", "Te", "Upgrade"} {
				if got.Get(name) != "" {
					t.Errorf("%s is %q, want none", name, got.Get(name))
				}
			}
		})
	}
}

// The sender's wish to keep its connection, or not, still counts.
func TestConnectionIsKeptOrClosedAsTheSenderAsks(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s := caddytest.Run(t, caddytest.Guard(b, ""))
	for _, want := range []string{"close", "keep-alive"} {
		conn, err := net.Dial("tcp", s.Addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		event := caddytest.Event(want)
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		io.WriteString(conn, rawPost("Connection: "+want+"\r\n"+signatureLine(event), event))
		if status, body := readReply(t, conn); status != http.StatusOK {
			t.Fatalf("got %d %s", status, body)
		}
		conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		_, err = conn.Read(make([]byte, 1))
		if closed := errors.Is(err, io.EOF); closed != (want == "close") {
			t.Errorf("%s: connection is closed: %t (%v)", want, closed, err)
		}
	}
}

// A guard behind another one passes on what the one in front knew.
func TestSecondGuardKeepsTheMarkOfTheFirst(t *testing.T) {
	for _, second := range []string{"", "verify_only", "idempotency_header X-Event-Id"} {
		b := caddytest.NewBackend(t, nil)
		s, store := caddytest.RunFaulty(t, fmt.Sprintf("route {\ninstantapi_verify %s {\non_store_error forward\n}\n%s\n}",
			caddytest.Secret, caddytest.Guard(b, second)))
		store.SetFaults(storetest.Always(errors.New("disk on fire")), nil)
		s.Send(t, "1").WantForwarded(t)
		got := guardHeadersIn(b.Deliveries()[0].Header)
		if !slices.Equal(got["X-InstantAPI-Deduplicated"], []string{"false"}) || !slices.Equal(got["X-InstantAPI-Verified"], []string{"true"}) {
			t.Errorf("second guard with %q: backend got %v", second, got)
		}
	}
}

// PHP and others behind FastCGI know headers by another spelling.
func TestFastCGIBackendGetsTheGuardsHeadersOnly(t *testing.T) {
	f := newFastCGI(t, nil)
	s := caddytest.New(t)
	s.Servers = allowSpellings
	s.MustLoad("instantapi_verify " + caddytest.Secret + "\nreverse_proxy " + f.addr + " {\ntransport fastcgi\n}")
	event := caddytest.Event("1")
	if status, body := rawRequest(t, s.Addr, rawPost(signatureLine(event)+forgedHeaders(), event)); status != http.StatusOK {
		t.Fatalf("got %d %s", status, body)
	}
	got := f.requests()
	if len(got) != 1 || got[0].body != string(event) {
		t.Fatalf("backend got %v", got)
	}
	if verified := got[0].Header.Values("X-Instantapi-Verified"); !slices.Equal(verified, []string{"true"}) {
		t.Errorf("HTTP_X_INSTANTAPI_VERIFIED is %q", verified)
	}
	if key := got[0].Header.Values("Idempotency-Key"); len(key) != 1 || len(key[0]) != 32 {
		t.Errorf("HTTP_IDEMPOTENCY_KEY is %q", key)
	}
	if mark := got[0].Header.Values("X-Instantapi-Deduplicated"); len(mark) > 0 {
		t.Errorf("HTTP_X_INSTANTAPI_DEDUPLICATED is %q", mark)
	}
}

// fastCGI is a FastCGI application, like a PHP one.
type fastCGI struct {
	addr string
	mu   sync.Mutex
	got  []fastCGIRequest
}

type fastCGIRequest struct {
	*http.Request
	body string
}

// newFastCGI starts an application that runs until the test ends. It remembers
// what it got and answers 200, unless answer is given.
func newFastCGI(t *testing.T, answer http.HandlerFunc) *fastCGI {
	t.Helper()
	f := new(fastCGI)
	f.addr = serveFastCGI(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		f.mu.Lock()
		f.got = append(f.got, fastCGIRequest{r, string(body)})
		f.mu.Unlock()
		if answer != nil {
			answer(w, r)
			return
		}
		io.WriteString(w, caddytest.FromBackend)
	}))
	return f
}

// serveFastCGI runs a handler behind FastCGI until the test ends.
func serveFastCGI(t *testing.T, handler http.Handler) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go fcgi.Serve(l, handler)
	return l.Addr().String()
}

func (f *fastCGI) requests() []fastCGIRequest {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.got)
}

// A header that carries a signature or an identity must have no other use.
func TestHeadersThatHaveAMeaningOfTheirOwnAreRefused(t *testing.T) {
	for option, want := range map[string]string{
		"idempotency_header":                                       "idempotency_header takes one argument, not 0",
		"idempotency_header a b":                                   "idempotency_header takes one argument, not 2",
		`idempotency_header "X Y"`:                                 `"X Y" is not a header name`,
		"idempotency_header X:":                                    `"X:" is not a header name`,
		"idempotency_header Zürich":                                `"Zürich" is not a header name`,
		"idempotency_header content-length":                        "content-length has another meaning in HTTP",
		"idempotency_header Host":                                  "Host has another meaning in HTTP",
		"idempotency_header connection":                            "connection has another meaning in HTTP",
		"idempotency_header TE":                                    "TE has another meaning in HTTP",
		"idempotency_header Transfer_Encoding":                     "Transfer_Encoding has another meaning in HTTP",
		"idempotency_header x-instantapi-verified":                 "x-instantapi-verified is what the guard tells the backend",
		"idempotency_header X_InstantAPI_Deduplicated":             "X_InstantAPI_Deduplicated is what the guard tells the backend",
		"idempotency_header X-InstantAPI-Signature":                "it is the signature_header",
		"idempotency_header x-sig\nsignature_header X_SIG":         "it is the signature_header",
		"signature_header X-InstantAPI-Verified":                   "X-InstantAPI-Verified is what the guard tells the backend",
		"signature_header Upgrade":                                 "Upgrade has another meaning in HTTP",
		`signature_header "X Sig"`:                                 `"X Sig" is not a header name`,
		"signature_header Idempotency-Key":                         "it is the signature_header",
		"signature_header Idempotency-Key\nidempotency_header off": "Idempotency-Key is removed from all requests",
	} {
		s := caddytest.New(t)
		err := s.Load(s.Caddyfile("instantapi_verify " + caddytest.Secret + " {\n" + option + "\n}\nrespond ok"))
		caddytest.WantError(t, err, want)
	}
}
