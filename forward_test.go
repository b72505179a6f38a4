package instantapi

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
	"github.com/instantapi/caddy-instantapi-verify/store"
)

// These tests are about what the backend gets, and what its answer means.

func TestForwardedHeaders(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s := caddytest.Run(t, caddytest.Guard(b, ""))
	r := caddytest.Signed(s.URL("/"), caddytest.Event("1"))
	for _, name := range []string{"Idempotency-Key", "X-InstantAPI-Verified", "X-InstantAPI-Deduplicated"} {
		r.Header.Set(name, "spoofed")
		r.Header.Add(name, "twice")
	}
	caddytest.Do(t, r).WantForwarded(t)
	s.Send(t, "2").WantForwarded(t)
	got := b.Deliveries()
	first := got[0].Header.Values("Idempotency-Key")
	if len(first) != 1 || len(first[0]) != 32 || first[0] == got[1].Header.Get("Idempotency-Key") {
		t.Errorf("Idempotency-Key is %q, then %q", first, got[1].Header.Get("Idempotency-Key"))
	}
	if verified := got[0].Header.Values("X-InstantAPI-Verified"); len(verified) != 1 || verified[0] != "true" {
		t.Errorf("X-InstantAPI-Verified is %q", verified)
	}
	if marked := got[0].Header.Values("X-InstantAPI-Deduplicated"); len(marked) != 0 {
		t.Errorf("X-InstantAPI-Deduplicated is %q", marked)
	}
}

func TestRetryHasTheSameIdempotencyKey(t *testing.T) {
	fail := true
	b := caddytest.NewBackend(t, func(w http.ResponseWriter, _ *http.Request) {
		if fail {
			w.WriteHeader(503)
		}
	})
	s := caddytest.Run(t, caddytest.Guard(b, ""))
	s.Send(t, "1")
	fail = false
	s.Send(t, "1")
	b.WantDeliveries(t, 2)
	got := b.Deliveries()
	if a, b := got[0].Header.Get("Idempotency-Key"), got[1].Header.Get("Idempotency-Key"); a != b {
		t.Errorf("got %s, then %s", a, b)
	}
}

func TestDeliveryGoesOnWhenTheSenderHangsUp(t *testing.T) {
	release := make(chan struct{})
	b := caddytest.NewBackend(t, func(w http.ResponseWriter, r *http.Request) { <-release })
	s := caddytest.Run(t, caddytest.Guard(b, ""))
	ctx, hangUp := context.WithCancel(caddytest.Timeout(t))
	sent := make(chan error)
	go func() {
		_, err := caddytest.DoWith(caddytest.Sender, caddytest.Signed(s.URL("/"), caddytest.Event("1")).WithContext(ctx))
		sent <- err
	}()
	caddytest.Eventually(t, "delivery begins", func() bool { return len(b.Deliveries()) == 1 })
	hangUp()
	if err := <-sent; err == nil {
		t.Fatal("sender did not hang up")
	}
	time.Sleep(100 * time.Millisecond) // for the news to spread
	if err := b.Deliveries()[0].Context().Err(); err != nil {
		t.Error("backend was hung up on")
	}
	close(release)
	s.Send(t, "1").WantDuplicate(t)
	b.WantDeliveries(t, 1)
}

func TestForwardTimeout(t *testing.T) {
	b := caddytest.NewBackend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Quick") == "" {
			<-r.Context().Done()
		}
	})
	s := caddytest.Run(t, caddytest.Guard(b, "forward_timeout 200ms"))
	if got := s.Send(t, "1"); got.Status != 504 {
		t.Errorf("got %d, want 504", got.Status)
	}
	r := caddytest.Signed(s.URL("/"), caddytest.Event("1"))
	r.Header.Set("Quick", "1")
	if got := caddytest.Do(t, r); got.Status != 200 || got.Body == caddytest.Duplicate {
		t.Errorf("got %d %s, want a delivery", got.Status, got.Body)
	}
}

func TestNoSuccessNoRecord(t *testing.T) {
	for _, status := range []int{301, 304, 400, 404, 409, 500, 503} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			b := caddytest.NewBackend(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
			s := caddytest.Run(t, caddytest.Guard(b, ""))
			client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
			for range 2 {
				got, err := caddytest.DoWith(client, caddytest.Signed(s.URL("/"), caddytest.Event("1")))
				if err != nil || got.Status != status {
					t.Errorf("got %d %v, want %d", got.Status, err, status)
				}
			}
			b.WantDeliveries(t, 2)
		})
	}
	t.Run("backend is down", func(t *testing.T) {
		b := caddytest.NewBackend(t, nil)
		s := caddytest.Run(t, caddytest.Guard(b, ""))
		b.Close()
		for range 2 {
			if got := s.Send(t, "1"); got.Status != 502 {
				t.Errorf("got %d, want 502", got.Status)
			}
		}
	})
	t.Run("backend hangs up", func(t *testing.T) {
		b := caddytest.NewBackend(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
		s := caddytest.Run(t, caddytest.Guard(b, ""))
		for range 2 {
			if got := s.Send(t, "1"); got.Status != 502 {
				t.Errorf("got %d, want 502", got.Status)
			}
		}
		b.WantDeliveries(t, 2)
	})
	t.Run("handler panics", func(t *testing.T) {
		s := caddytest.Run(t, "instantapi_verify "+caddytest.Secret+"\ntest panic")
		for range 2 {
			if _, err := caddytest.DoWith(caddytest.Sender, caddytest.Signed(s.URL("/"), caddytest.Event("1"))); err == nil {
				t.Error("got an answer, want a broken connection")
			}
		}
		if n := caddytest.Panics.Load(); n != 2 {
			t.Errorf("handler was called %d times, want 2", n)
		}
	})
	t.Run("templates of nothing", func(t *testing.T) {
		s := caddytest.Run(t, "instantapi_verify "+caddytest.Secret+"\ntemplates")
		for range 2 {
			if got := s.Send(t, "1"); got.Status != 502 {
				t.Errorf("got %d %s, want 502", got.Status, got.Body)
			}
		}
	})
	t.Run("no handler", func(t *testing.T) {
		s := caddytest.Run(t, "instantapi_verify "+caddytest.Secret+"\nreverse_proxy /elsewhere 127.0.0.1:1")
		for range 2 {
			s.Send(t, "1").WantJSON(t, 502, `{"error": "No backend"}`)
		}
	})
}

func TestEverySuccessIsRecorded(t *testing.T) {
	for _, status := range []int{200, 201, 202, 204, 206, 299} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			b := caddytest.NewBackend(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
			s := caddytest.Run(t, caddytest.Guard(b, ""))
			if got := s.Send(t, "1"); got.Status != status {
				t.Errorf("got %d, want %d", got.Status, status)
			}
			s.Send(t, "1").WantDuplicate(t)
		})
	}
	t.Run("after 103 Early Hints", func(t *testing.T) {
		fail := true
		b := caddytest.NewBackend(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(103)
			if fail {
				w.WriteHeader(500)
			}
		})
		s := caddytest.Run(t, caddytest.Guard(b, ""))
		if got := s.Send(t, "1"); got.Status != 500 {
			t.Errorf("got %d, want 500", got.Status)
		}
		fail = false
		if got := s.Send(t, "1"); got.Body == caddytest.Duplicate {
			t.Error("1xx counts as a success")
		}
		s.Send(t, "1").WantDuplicate(t)
	})
	t.Run("backend fails after its header", func(t *testing.T) {
		b := caddytest.NewBackend(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			w.Write([]byte("begin"))
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		})
		s := caddytest.Run(t, caddytest.Guard(b, ""))
		if _, err := caddytest.DoWith(caddytest.Sender, caddytest.Signed(s.URL("/"), caddytest.Event("1"))); err == nil {
			t.Error("broken answer arrived whole")
		}
		s.Send(t, "1").WantDuplicate(t)
	})
}

// Whatever makes a handler's answer go out, the record comes first.
func TestRecordedBeforeTheAnswerIsReleased(t *testing.T) {
	for _, first := range []string{"header", "write", "read_from", "flush"} {
		t.Run(first, func(t *testing.T) {
			s, faulty := caddytest.RunFaulty(t, "instantapi_verify "+caddytest.Secret+"\nroute {\ntest "+first+"\n}")
			recording, release := make(chan struct{}), make(chan struct{})
			faulty.SetFaults(nil, func(context.Context, store.Identity) error {
				close(recording)
				<-release
				return nil
			})
			answered := make(chan struct{})
			go func() {
				defer close(answered)
				res, err := caddytest.Sender.Do(caddytest.Signed(s.URL("/"), caddytest.Event("1")))
				if err != nil {
					t.Error(err)
					return
				}
				res.Body.Close()
			}()
			<-recording
			select {
			case <-answered:
				t.Error("answer came before the record")
			case <-time.After(100 * time.Millisecond):
			}
			close(release)
			<-answered
		})
	}
}

func TestAnswerStreams(t *testing.T) {
	release := make(chan struct{})
	b := caddytest.NewBackend(t, func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "first")
		http.NewResponseController(w).Flush()
		<-release
		io.WriteString(w, "second")
	})
	s := caddytest.Run(t, strings.Replace(caddytest.Guard(b, ""), "reverse_proxy "+b.Addr(), "reverse_proxy "+b.Addr()+" {\nflush_interval -1\n}", 1))
	res, err := caddytest.Sender.Do(caddytest.Signed(s.URL("/"), caddytest.Event("1")).WithContext(caddytest.Timeout(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	first := make([]byte, 5)
	if _, err := io.ReadFull(res.Body, first); err != nil || string(first) != "first" {
		t.Errorf("got %q %v", first, err)
	}
	close(release)
	if rest, err := io.ReadAll(res.Body); err != nil || string(rest) != "second" {
		t.Errorf("got %q %v", rest, err)
	}
}

// With several upstreams the proxy resends the body by itself, and only the last
// attempt is the delivery.
func TestSecondUpstreamGetsTheWholeBody(t *testing.T) {
	body := bytes.Replace(caddytest.Event("1"), []byte("ok"), bytes.Repeat([]byte("x"), 1<<20), 1)
	t.Run("first is down", func(t *testing.T) {
		b := caddytest.NewBackend(t, nil)
		s := caddytest.Run(t, fmt.Sprintf("instantapi_verify %s\nreverse_proxy %s %s {\nlb_policy first\nlb_try_duration 5s\nfail_duration 10s\n}", caddytest.Secret, caddytest.FreeAddr(t), b.Addr()))
		s.Post(t, "/", body).WantForwarded(t)
		s.Post(t, "/", body).WantDuplicate(t)
		b.WantDeliveries(t, 1)
		if !bytes.Equal(b.Deliveries()[0].Body, body) {
			t.Error("body is not whole")
		}
	})
	t.Run("first dies while it reads", func(t *testing.T) {
		dying := caddytest.NewBackend(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
		b := caddytest.NewBackend(t, nil)
		s := caddytest.Run(t, fmt.Sprintf("instantapi_verify %s\nreverse_proxy %s %s {\nlb_policy first\nlb_try_duration 5s\nlb_retry_match {\nmethod POST\n}\nfail_duration 10s\nrequest_buffers 4MiB\n}",
			caddytest.Secret, dying.Addr(), b.Addr()))
		s.Post(t, "/", body).WantForwarded(t)
		s.Post(t, "/", body).WantDuplicate(t)
		b.WantDeliveries(t, 1)
		if !bytes.Equal(b.Deliveries()[0].Body, body) {
			t.Error("body is not whole")
		}
	})
}
