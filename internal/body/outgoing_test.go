package body

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"
)

func newBody(t *testing.T, content string) *Body {
	t.Helper()
	b, err := Read(&http.Request{Body: io.NopCloser(strings.NewReader(content)), ContentLength: -1}, int64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func wantRead(t *testing.T, r io.Reader, want string) {
	t.Helper()
	got, err := io.ReadAll(iotest.OneByteReader(r))
	if err != nil || string(got) != want {
		t.Errorf("read %q %v, want %q", got, err, want)
	}
}

func wantReadError(t *testing.T, r io.Reader, want error) {
	t.Helper()
	if n, err := r.Read(make([]byte, 100)); n != 0 || !errors.Is(err, want) {
		t.Errorf("read %d bytes and %v, want %v", n, err, want)
	}
}

func readSome(t *testing.T, r io.Reader, n int) {
	t.Helper()
	if _, err := io.ReadFull(r, make([]byte, n)); err != nil {
		t.Fatal(err)
	}
}

// Each attempt has the body from its beginning, whatever the last one did.
func TestEachAttemptBeginsAtTheBeginning(t *testing.T) {
	for name, last := range map[string]func(*Outgoing){
		"did not reach the backend":  func(*Outgoing) {},
		"was cut off":                func(o *Outgoing) { readSome(t, o, 3) },
		"was sent":                   func(o *Outgoing) { wantRead(t, o, "content") },
		"was sent, but no end asked": func(o *Outgoing) { readSome(t, o, 7) },
	} {
		t.Run(name, func(t *testing.T) {
			o := newBody(t, "content").Outgoing()
			trace := o.Trace(mustNotStop(t))
			for range 3 {
				trace.GetConn("backend:80")
				trace.WroteHeaders()
				last(o)
				trace.WroteRequest(httptrace.WroteRequestInfo{})
			}
			trace.GetConn("backend:80")
			wantRead(t, o, "content")
			wantReadError(t, o, io.EOF)
		})
	}
}

// FastCGI's transport dials for each attempt, and never closes a body.
func TestEachDialBeginsAtTheBeginning(t *testing.T) {
	o := newBody(t, "content").Outgoing()
	trace := o.Trace(mustNotStop(t))
	for _, sent := range []int{0, 3, 7} {
		trace.ConnectStart("tcp", "backend:9000")
		trace.ConnectStart("tcp", "[::1]:9000") // the same name's other address
		trace.ConnectDone("tcp", "backend:9000", nil)
		readSome(t, o, sent)
	}
	trace.ConnectStart("tcp", "backend:9000")
	wantRead(t, o, "content")
}

// net/http dials in the background, and may use a connection that becomes idle
// meanwhile.
func TestLateDialDoesNotDisturbAnAttempt(t *testing.T) {
	o := newBody(t, "content").Outgoing()
	trace := o.Trace(mustNotStop(t))
	trace.GetConn("backend:80")
	trace.WroteHeaders()
	readSome(t, o, 3)
	trace.ConnectStart("tcp", "backend:80")
	trace.ConnectDone("tcp", "backend:80", nil)
	wantRead(t, o, "tent")
}

// Over HTTP/2 a backend may answer before its proxy knows that it has written the
// whole request. What another proxy sends by FastCGI then begins at the beginning,
// and is not disturbed by the news.
func TestDialBehindALateAttemptBeginsAtTheBeginning(t *testing.T) {
	o := newBody(t, "content").Outgoing()
	trace := o.Trace(mustNotStop(t))
	trace.GetConn("one:80")
	trace.WroteHeaders()
	wantRead(t, o, "content")
	trace.ConnectStart("tcp", "two:9000")
	trace.ConnectDone("tcp", "two:9000", nil)
	readSome(t, o, 3)
	trace.WroteRequest(httptrace.WroteRequestInfo{})
	wantRead(t, o, "tent")
}

// forward_auth first asks another backend, without a body.
func TestRequestWithoutTheBodyIsNoAttempt(t *testing.T) {
	o := newBody(t, "content").Outgoing()
	trace := o.Trace(mustNotStop(t))
	trace.GetConn("auth:80")
	trace.WroteHeaders()
	trace.WroteRequest(httptrace.WroteRequestInfo{})
	for range 2 {
		trace.ConnectStart("tcp", "backend:9000")
		trace.ConnectDone("tcp", "backend:9000", nil)
		readSome(t, o, 3)
	}
	trace.ConnectStart("tcp", "backend:9000")
	wantRead(t, o, "content")
}

// If the last attempt is still sending, the next one waits until it ends.
func TestAttemptsDoNotMix(t *testing.T) {
	o := newBody(t, "content").Outgoing()
	trace := o.Trace(mustNotStop(t))
	trace.GetConn("one:80")
	trace.WroteHeaders()
	readSome(t, o, 3)
	var begun atomic.Bool
	next := make(chan struct{})
	go func() {
		trace.GetConn("two:80")
		begun.Store(true)
		close(next)
	}()
	time.Sleep(50 * time.Millisecond)
	if begun.Load() {
		t.Error("next attempt has begun while the last one is sending")
	}
	o.Close() // as HTTP/2 does
	readSome(t, o, 2)
	trace.WroteRequest(httptrace.WroteRequestInfo{})
	<-next
	o.Close() // late
	wantRead(t, o, "content")
}

// A proxy that buffers part of the body begins with what is left of that.
func TestPartInABufferIsNotSentTwice(t *testing.T) {
	t.Run("first attempt", func(t *testing.T) {
		o := newBody(t, "content").Outgoing()
		readSome(t, o, 3)
		o.Trace(mustNotStop(t)).GetConn("backend:80")
		wantRead(t, o, "tent")
	})
	t.Run("that is not used up, after no connection", func(t *testing.T) {
		o := newBody(t, "content").Outgoing()
		readSome(t, o, 3)
		o.Trace(mustNotStop(t)).GetConn("one:80")
		o.Trace(mustNotStop(t)).GetConn("two:80")
		wantRead(t, o, "tent")
	})
	t.Run("that is used up", func(t *testing.T) {
		o := newBody(t, "content").Outgoing()
		readSome(t, o, 3)
		o.Trace(mustNotStop(t)).GetConn("one:80")
		readSome(t, o, 1)
		o.Trace(mustNotStop(t)).GetConn("two:80")
		wantRead(t, o, "content")
	})
	t.Run("of which nobody reads on", func(t *testing.T) {
		for _, held := range []int{3, 7} {
			o := newBody(t, "content").Outgoing()
			readSome(t, o, held)
			o.Trace(mustNotStop(t)).GetConn("one:80")
			wantRead(t, o, "content"[held:])
			stopped := false
			o.Trace(func() { stopped = true }).GetConn("two:80")
			if !stopped || !errors.Is(o.Err(), errHeld) {
				t.Errorf("stopped: %t, %v", stopped, o.Err())
			}
			wantReadError(t, o, errHeld)
		}
	})
	t.Run("that may be used up", func(t *testing.T) {
		o := newBody(t, "content").Outgoing()
		readSome(t, o, 3)
		stopped := false
		trace := o.Trace(func() { stopped = true })
		trace.ConnectStart("tcp", "one:9000")
		trace.ConnectDone("tcp", "one:9000", nil)
		trace.ConnectStart("tcp", "two:9000")
		if !stopped {
			t.Error("the attempt goes on")
		}
		wantReadError(t, o, errHeld)
	})
	t.Run("that is all of it", func(t *testing.T) {
		o := newBody(t, "content").Outgoing()
		wantRead(t, o, "content")
		o.Close()
		o.Trace(mustNotStop(t)).GetConn("one:80")
		o.Trace(mustNotStop(t)).GetConn("two:80")
	})
}

func mustNotStop(t *testing.T) func() {
	return func() { t.Error("attempt is stopped") }
}

// A handler can read the body again as well.
func TestHandlerReadsAgain(t *testing.T) {
	o := newBody(t, "content").Outgoing()
	for range 3 {
		wantRead(t, o, "content")
		o.Close()
	}
	readSome(t, o, 3)
	o.Close()
	wantReadError(t, o, http.ErrBodyReadAfterClose) // rather than the rest as if it were all
}

func TestAgainIsIndependent(t *testing.T) {
	b := newBody(t, "content")
	o := b.Outgoing()
	readSome(t, o, 3)
	again, err := o.Again()
	if err != nil {
		t.Fatal(err)
	}
	wantRead(t, o, "tent")
	wantRead(t, again, "content")
	again.Close()
	wantReadError(t, again, http.ErrBodyReadAfterClose)
	another, _ := o.Again()
	b.Release()
	wantReadError(t, another, ErrReleased)
}

// If a handler has replaced the body, net/http must not send the original one
// when it sends the request again.
func TestReplacedBodyIsNotSentAgain(t *testing.T) {
	o := newBody(t, "content").Outgoing()
	o.Close()
	if _, err := o.Again(); !errors.Is(err, errReplaced) {
		t.Errorf("got %v, want errReplaced", err)
	}
}

// With net/http's own transport: a backend that answers early, and closes, while
// the body is on its way, does not spoil the body for the next backend.
func TestEarlyAnswerDoesNotSpoilTheNextAttempt(t *testing.T) {
	early := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).EnableFullDuplex()
		w.WriteHeader(http.StatusServiceUnavailable)
		http.NewResponseController(w).Flush()
		io.CopyN(io.Discard, r.Body, 10_000)
		panic(http.ErrAbortHandler)
	}))
	defer early.Close()
	content := make([]byte, 4<<20)
	for i := range content {
		content[i] = byte(i >> 8)
	}
	got := make(chan []byte, 1)
	backend := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		sent, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got <- sent
	}))
	defer backend.Close()
	transport := new(http.Transport)
	defer transport.CloseIdleConnections()
	for range 20 {
		o := newBody(t, string(content)).Outgoing()
		r, _ := http.NewRequest(http.MethodPost, early.URL, o)
		r.ContentLength = int64(len(content))
		r = r.WithContext(httptrace.WithClientTrace(t.Context(), o.Trace(mustNotStop(t))))
		if res, err := transport.RoundTrip(r); err == nil {
			res.Body.Close()
		}
		r, _ = http.NewRequestWithContext(r.Context(), http.MethodPost, backend.URL, o)
		r.ContentLength = int64(len(content))
		res, err := transport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if !bytes.Equal(<-got, content) {
			t.Fatal("next backend got something else")
		}
	}
}

// After an attempt has ended, another proxy reads the whole body, and may
// buffer part of it first.
func TestAnotherProxyReadsAllOfIt(t *testing.T) {
	for name, attempt := range map[string]func(*httptrace.ClientTrace, *Outgoing){
		"behind HTTP": func(trace *httptrace.ClientTrace, o *Outgoing) {
			trace.GetConn("one:80")
			trace.WroteHeaders()
			readSome(t, o, 3)
			trace.WroteRequest(httptrace.WroteRequestInfo{})
		},
		"behind FastCGI": func(trace *httptrace.ClientTrace, o *Outgoing) {
			readSome(t, o, 2)
			trace.ConnectStart("tcp", "one:9000")
			trace.ConnectDone("tcp", "one:9000", nil)
			wantRead(t, o, "ntent")
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := newBody(t, "content").Outgoing()
			trace := o.Trace(mustNotStop(t))
			attempt(trace, o)
			readSome(t, o, 4)
			trace.GetConn("two:80")
			wantRead(t, o, "ent")
		})
	}
}
