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
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/instantapi/caddy-instantapi-verify/internal/body"
	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
	"go.uber.org/zap"
)

// A handler that has kept the body can't read it once the guard has finished.
func TestBodyIsReleasedWithItsRequest(t *testing.T) {
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	defer cancel()
	h := &Handler{Secrets: []string{caddytest.Secret}, VerifyOnly: true}
	if err := h.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	h.log = zap.NewNop()
	var kept io.Reader
	next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		kept = r.Body
		if _, err := io.ReadFull(r.Body, make([]byte, 10)); err != nil {
			return err
		}
		w.WriteHeader(http.StatusOK)
		return nil
	})
	r := caddytest.Signed("http://localhost/", caddytest.Event("1"))
	r = r.WithContext(context.WithValue(r.Context(), caddy.ReplacerCtxKey, caddy.NewReplacer()))
	r = r.WithContext(context.WithValue(r.Context(), caddyhttp.VarsCtxKey, map[string]any{}))
	if err := h.ServeHTTP(httptest.NewRecorder(), r, next); err != nil {
		t.Fatal(err)
	}
	if n, err := kept.Read(make([]byte, 10)); n != 0 || !errors.Is(err, body.ErrReleased) {
		t.Errorf("got %d bytes and %v, want ErrReleased", n, err)
	}
}

// Buffers serve one request after another, and no backend ever gets a byte of
// another request's body: neither if it answers before it has read, so that the
// proxy is still sending when the guard has finished, nor if senders hang up
// and deliveries go on without them.
func TestNoByteOfAnotherRequestReachesTheBackend(t *testing.T) {
	rounds := 100
	if testing.Short() {
		rounds = 30
	}
	// Each body repeats one letter, and a header says which.
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
	s := caddytest.Run(t, "instantapi_verify {\nsecret "+caddytest.Secret+"\n}\nreverse_proxy "+strings.TrimPrefix(backend.URL, "http://"))
	var wg sync.WaitGroup
	for sender := range 16 {
		wg.Go(func() {
			for n := range rounds {
				letter := string(rune('a' + (sender+n)%26))
				size := []int{10, 3000, 40_000, 300_000}[rand.IntN(4)]
				body := fmt.Appendf(nil, `{"event_type":"task.completed","task_id":"%d-%d","text":%q}`, sender, n, strings.Repeat(letter, size))
				r := caddytest.Signed(s.URL("/"), body)
				r.Header.Set("Letter", letter)
				if rand.IntN(4) == 0 {
					hangUp(t, s.Addr, r, body)
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

// hangUp sends a whole request and hangs up.
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
