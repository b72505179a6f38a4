package instantapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// What arrives is what was sent, at every size at which a buffer grows, however
// the bytes come in and whether their number is announced.
func TestBodyIsReadWhole(t *testing.T) {
	for _, size := range []int{0, 1, firstBuffer - 1, firstBuffer, firstBuffer + 1, secondBuffer, secondBuffer + 1,
		64 << 10, 1<<20 - 1, 1 << 20, largestPooled, largestPooled + 1} {
		sent := make([]byte, size)
		for i := range sent {
			sent[i] = byte(rand.IntN(256))
		}
		for how, reader := range map[string]io.Reader{
			"at once":      bytes.NewReader(sent),
			"in halves":    iotest.HalfReader(bytes.NewReader(sent)),
			"end with all": iotest.DataErrReader(bytes.NewReader(sent)),
		} {
			for _, announced := range []int64{int64(size), -1} {
				r := &http.Request{Body: io.NopCloser(reader), ContentLength: announced}
				body, err := readBody(r, int64(size))
				if err != nil {
					t.Fatalf("%d bytes %s: %v", size, how, err)
				}
				if !bytes.Equal(body.bytes(), sent) {
					t.Errorf("%d bytes %s: they are others", size, how)
				}
				forwarded, err := io.ReadAll(body)
				if err != nil || !bytes.Equal(forwarded, sent) {
					t.Errorf("%d bytes %s: others are forwarded, %v", size, how, err)
				}
				body.release()
				if _, err := body.Read(make([]byte, 1)); !errors.Is(err, errBodyReleased) {
					t.Errorf("after its request: got %v, want errBodyReleased", err)
				}
				reader = bytes.NewReader(sent) // for the second time
			}
		}
	}
}

// Memory is bounded by what a sender has sent, whatever it announces.
func TestBodyHasNoMoreRoomThanItNeeds(t *testing.T) {
	const sent, announced = 1 << 20, 4 << 20
	body, err := readBody(&http.Request{Body: io.NopCloser(&stingy{t: t, total: sent}), ContentLength: announced}, announced)
	if err != nil {
		t.Fatal(err)
	}
	defer body.release()
	if len(body.bytes()) != sent {
		t.Errorf("got %d bytes, want %d", len(body.bytes()), sent)
	}
}

// stingy sends zeros little by little, and fails the test where the buffer becomes
// more than twice what was sent.
type stingy struct {
	t           *testing.T
	sent, total int
}

func (s *stingy) Read(p []byte) (int, error) {
	if len(p) > max(secondBuffer, s.sent) {
		s.t.Fatalf("room for %d more bytes, though only %d were sent", len(p), s.sent)
	}
	if s.sent == s.total {
		return 0, io.EOF
	}
	n := min(len(p), 1000, s.total-s.sent)
	s.sent += n
	return n, nil
}

// The buffers that a body grew out of, and at its release the last one, serve
// the next bodies. In bytes, because with -race a pool drops a quarter of what it
// is given: about 255,000 bytes a body are allocated then, else next to none, and
// half a million if one of the two is forgotten.
func TestBuffersAreUsedAgain(t *testing.T) {
	const size, bodies = 400_000, 500
	sent := make([]byte, size)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range bodies {
		body, err := readBody(&http.Request{Body: io.NopCloser(bytes.NewReader(sent)), ContentLength: size}, size)
		if err != nil {
			t.Fatal(err)
		}
		body.release()
	}
	runtime.ReadMemStats(&after)
	if allocated := (after.TotalAlloc - before.TotalAlloc) / bodies; allocated > size {
		t.Errorf("%d bytes allocated for each body of %d", allocated, size)
	}
}

// A handler that has kept the body can't read it when the guard is done.
func TestBodyIsReleasedWithItsRequest(t *testing.T) {
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	defer cancel()
	h := &Handler{Secrets: []string{testSecret}, VerifyOnly: true}
	if err := h.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	h.log = zap.NewNop()
	var kept io.Reader
	next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		kept = r.Body
		_, err := io.ReadFull(r.Body, make([]byte, 10))
		return err
	})
	r := signed("http://localhost/", taskEvent("1"))
	r = r.WithContext(context.WithValue(r.Context(), caddy.ReplacerCtxKey, caddy.NewReplacer()))
	r = r.WithContext(context.WithValue(r.Context(), caddyhttp.VarsCtxKey, map[string]any{}))
	if err := h.ServeHTTP(httptest.NewRecorder(), r, next); err != nil {
		t.Fatal(err)
	}
	if n, err := kept.Read(make([]byte, 10)); n != 0 || !errors.Is(err, errBodyReleased) {
		t.Errorf("got %d bytes and %v, want errBodyReleased", n, err)
	}
}

// A proxy that is still sending when its request has ended gets no more of the
// body, and nothing of the next one in the same buffer.
func TestReleasedBodyGivesNothingAway(t *testing.T) {
	const size = 60_000
	read := func(letter byte) *requestBody {
		r := &http.Request{Body: io.NopCloser(bytes.NewReader(bytes.Repeat([]byte{letter}, size))), ContentLength: size}
		body, err := readBody(r, size)
		if err != nil {
			t.Fatal(err)
		}
		return body
	}
	cut := 0
	for range 500 {
		mine := read('a')
		sending := make(chan []byte)
		go func() {
			sent, chunk := []byte(nil), make([]byte, 512)
			for {
				n, err := mine.Read(chunk)
				sent = append(sent, chunk[:n]...)
				if err != nil {
					sending <- sent
					return
				}
				runtime.Gosched()
			}
		}()
		runtime.Gosched()
		mine.release()
		for range 4 {
			read('b').release()
		}
		sent := <-sending
		if others := bytes.Trim(sent, "a"); len(others) > 0 {
			t.Fatalf("%d of %d bytes are another body's", len(others), len(sent))
		}
		if len(sent) < size {
			cut++
		}
	}
	if cut == 0 {
		t.Error("each was sent before its release, so this proves nothing")
	}
}

// A body that is too large, or ends early, leaves nothing to the next request.
func TestBodyOfAFailedReadIsNotSeenAgain(t *testing.T) {
	for range 100 {
		secret := strings.Repeat("SECRET", 1000)
		for _, reader := range []io.Reader{strings.NewReader(secret), iotest.TimeoutReader(iotest.OneByteReader(strings.NewReader(secret)))} {
			if _, err := readBody(&http.Request{Body: io.NopCloser(reader), ContentLength: -1}, 100); err == nil {
				t.Fatal("it is read")
			}
		}
		body, err := readBody(&http.Request{Body: io.NopCloser(strings.NewReader("next")), ContentLength: -1}, 100)
		if err != nil || string(body.bytes()) != "next" {
			t.Fatalf("got %q %v", body.bytes(), err)
		}
		body.release()
	}
}

// Buffers serve one request after the other, and no backend ever gets a byte of
// another request's body: not where it answers before it has read, so that the
// proxy is still sending when the guard is done, nor where senders hang up and
// deliveries go on without them.
func TestNoByteOfAnotherRequestReachesTheBackend(t *testing.T) {
	rounds := 100
	if testing.Short() {
		rounds = 30
	}
	// Each body is one letter over and over, and a header says which.
	foreign := func(letter string, read []byte) bool {
		text := read
		if i := bytes.Index(text, []byte(`"text":"`)); i >= 0 {
			text = text[i+len(`"text":"`):]
			if end := bytes.IndexByte(text, '"'); end >= 0 {
				text = text[:end]
			}
			return len(bytes.Trim(text, letter)) > 0
		}
		return false
	}
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if rand.IntN(2) == 0 { // an answer before the body is read
			http.NewResponseController(w).EnableFullDuplex()
			w.Header().Set("Content-Length", "0") // and so the guard is done
			w.WriteHeader([]int{200, 500}[rand.IntN(2)])
			http.NewResponseController(w).Flush()
			time.Sleep(time.Duration(rand.IntN(3)) * time.Millisecond)
		}
		read, _ := io.ReadAll(r.Body)
		if foreign(r.Header.Get("Letter"), read) {
			t.Errorf("a body of %s has another's bytes", r.Header.Get("Letter"))
		}
	}))
	defer backend.Close()
	s := run(t, "instantapi_verify {\nsecret "+testSecret+"\n}\nreverse_proxy "+strings.TrimPrefix(backend.URL, "http://"))
	var wg sync.WaitGroup
	for sender := range 16 {
		wg.Go(func() {
			for n := range rounds {
				letter := string(rune('a' + (sender+n)%26))
				size := []int{10, 3000, 40_000, 300_000}[rand.IntN(4)]
				body := fmt.Appendf(nil, `{"event_type":"task.completed","task_id":"%d-%d","text":%q}`, sender, n, strings.Repeat(letter, size))
				r := signed(s.url("/"), body)
				r.Header.Set("Letter", letter)
				if rand.IntN(4) == 0 {
					hangUp(t, s.addr, r, body)
					continue
				}
				if res, err := busySender.Do(r); err == nil {
					io.Copy(io.Discard, res.Body)
					res.Body.Close()
				}
			}
		})
	}
	wg.Wait()
	if err := caddy.Stop(); err != nil { // deliveries have ended
		t.Fatal(err)
	}
}

// busySender keeps its connections, so that requests follow each other closely.
var busySender = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}, Timeout: 30 * time.Second}

// hangUp sends a whole request and goes.
func hangUp(t *testing.T, addr string, r *http.Request, body []byte) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	r.Body = io.NopCloser(bytes.NewReader(body))
	if err := r.Write(conn); err != nil {
		t.Log(err) // an early answer may have closed it
	}
}
