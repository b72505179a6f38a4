package instantapi

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
	"github.com/instantapi/caddy-instantapi-verify/signature"
	"github.com/quic-go/quic-go/http3"
)

// runHTTP3 returns the URL of a site with these routes, and a client that speaks
// HTTP/3 to it and nothing else.
func runHTTP3(t *testing.T, routes string) (url string, client *http.Client) {
	t.Helper()
	cert, key, roots := caddytest.Certificate(t)
	s := caddytest.New(t)
	s.Servers = "protocols h1 h2 h3"
	if err := s.Load(s.Global() + fmt.Sprintf("https://%s {\ntls %s %s\n%s\n}",
		s.Addr, caddytest.Quote(cert), caddytest.Quote(key), routes)); err != nil {
		t.Fatal(err)
	}
	transport := &http3.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	t.Cleanup(func() { transport.Close() })
	return "https://" + s.Addr + "/", &http.Client{Transport: transport, Timeout: 30 * time.Second}
}

func TestHTTP3(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	url, client := runHTTP3(t, caddytest.Guard(b, ""))
	send := func(r *http.Request) caddytest.Reply {
		t.Helper()
		got, err := caddytest.DoWith(client, r)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	large := eventOf("large", 1<<20)
	for _, event := range [][]byte{caddytest.Event("1"), large} {
		for _, length := range []int64{int64(len(event)), -1} {
			forgery := caddytest.SignedWith("another secret", url, event)
			forgery.ContentLength = length
			send(forgery).WantJSON(t, http.StatusUnauthorized, caddytest.Forged)
		}
	}
	b.WantDeliveries(t, 0)
	for _, event := range [][]byte{caddytest.Event("1"), large} {
		r := caddytest.Signed(url, event)
		r.Header.Set("X-InstantAPI-Verified", "forged")
		send(r).WantForwarded(t)
		r = caddytest.Signed(url, event)
		r.ContentLength = -1
		send(r).WantDuplicate(t)
	}
	b.WantBodies(t, string(caddytest.Event("1")), string(large))
	for _, got := range b.Deliveries() {
		if values := got.Header.Values("X-InstantAPI-Verified"); len(values) != 1 || values[0] != "true" {
			t.Errorf("backend got %q", values)
		}
	}
}

// HTTP/3 tells a sender that is answered early to stop.
func TestEarlyAnswerOverHTTP3(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	for _, more := range []string{"", errorPages} {
		url, client := runHTTP3(t, caddytest.Guard(b, "")+more)
		for _, test := range earlyAnswers {
			r := caddytest.Unsigned(test.method, url, bytes.Repeat([]byte("x"), 4<<20+1))
			if test.signature != "" {
				r.Header.Set(signature.DefaultHeader, test.signature)
			}
			got, err := caddytest.DoWith(client, r)
			if err != nil || got.Status != test.status {
				t.Errorf("%s, %q: got %d %v, want %d", test.name, more, got.Status, err, test.status)
			}
		}
	}
}

// stopsEarly gives its data and then an error, or waits for a context's end.
type stopsEarly struct {
	io.Reader
	ctx context.Context // nil: an error
}

func (s *stopsEarly) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if !errors.Is(err, io.EOF) {
		return n, err
	}
	if s.ctx == nil {
		return n, errors.New("sender fails")
	}
	<-s.ctx.Done()
	return n, s.ctx.Err()
}

// A large body that stops early changes nothing: the event can come again.
func TestBodyThatStopsEarlyOverHTTP3ChangesNothing(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	url, client := runHTTP3(t, caddytest.Guard(b, ""))
	event := eventOf("1", 1<<20)
	half := string(event[:len(event)/2])
	for _, length := range []int64{int64(len(event)), -1} {
		for name, hangUp := range map[string]bool{"sender fails": false, "sender hangs up": true} {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			body := &stopsEarly{Reader: strings.NewReader(half)}
			if hangUp {
				body.ctx = ctx
			}
			r := caddytest.Signed(url, event).WithContext(ctx)
			r.Body, r.GetBody, r.ContentLength = io.NopCloser(body), nil, length
			if got, err := caddytest.DoWith(client, r); err == nil && got.Status/100 == 2 {
				t.Errorf("%s: got %d %s", name, got.Status, got.Body)
			}
			cancel()
		}
	}
	b.WantDeliveries(t, 0)
	got, err := caddytest.DoWith(client, caddytest.Signed(url, event))
	if err != nil {
		t.Fatal(err)
	}
	got.WantForwarded(t)
	b.WantBodies(t, string(event))
}
