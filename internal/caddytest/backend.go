package caddytest

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
)

// FromBackend is the body of a [Backend]'s answer, unless the test gives
// another.
const FromBackend = "from the backend"

// Backend stands for the user's backend. It remembers what it got, and answers
// 200.
type Backend struct {
	*httptest.Server

	// Answer, if it is not nil, answers in the backend's place, after the
	// request's body has been read. It must be set before the first request.
	Answer http.HandlerFunc

	mu  sync.Mutex
	got []Delivery
}

// Delivery is a request that has reached a [Backend] whole.
type Delivery struct {
	*http.Request
	Body []byte
}

// NewBackend starts a backend that runs until the test ends.
func NewBackend(t testing.TB, answer http.HandlerFunc) *Backend {
	t.Helper()
	b := &Backend{Answer: answer}
	b.Server = httptest.NewServer(b)
	t.Cleanup(b.Close)
	return b
}

// ServeHTTP implements http.Handler.
func (b *Backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // not a delivery
	}
	b.mu.Lock()
	b.got = append(b.got, Delivery{r, body})
	b.mu.Unlock()
	if b.Answer != nil {
		b.Answer(w, r)
		return
	}
	io.WriteString(w, FromBackend)
}

// Addr returns where the backend listens.
func (b *Backend) Addr() string { return strings.TrimPrefix(b.URL, "http://") }

// Deliveries returns what has arrived so far.
func (b *Backend) Deliveries() []Delivery {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.got)
}

// WantDeliveries fails the test if another number of requests has arrived.
func (b *Backend) WantDeliveries(t testing.TB, want int) {
	t.Helper()
	if got := len(b.Deliveries()); got != want {
		t.Errorf("backend got %d requests, want %d", got, want)
	}
}

// WantBodies fails the test unless exactly these bodies have arrived, in this
// order.
func (b *Backend) WantBodies(t testing.TB, want ...string) {
	t.Helper()
	var got []string
	for _, delivery := range b.Deliveries() {
		got = append(got, string(delivery.Body))
	}
	if !slices.Equal(got, want) {
		t.Errorf("backend got %d events %.200q, want %d: %.200q", len(got), got, len(want), want)
	}
}

// Serve listens until the test ends, and lets serve answer each connection, which
// is closed when serve returns: for a server that speaks HTTP as no library does.
func Serve(t testing.TB, serve func(net.Conn)) (addr string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				serve(conn)
			}()
		}
	}()
	return listener.Addr().String()
}
