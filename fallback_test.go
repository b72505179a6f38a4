package instantapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
	"github.com/instantapi/caddy-instantapi-verify/signature"
	"github.com/instantapi/caddy-instantapi-verify/store/storetest"
)

// withFallback returns routes whose backend is down, with these error routes.
func withFallback(t *testing.T, fallback string) string {
	return fmt.Sprintf("instantapi_verify %s\nreverse_proxy %s\nhandle_errors 502 {\n%s\n}", caddytest.Secret, caddytest.FreeAddr(t), fallback)
}

// inChunks is a signed request that does not announce the size of its body.
func inChunks(url string, body []byte) *http.Request {
	r := caddytest.Signed(url, body)
	r.ContentLength = -1
	return r
}

// If the backend is down, the backend of an error route gets all that the guard
// would have given the first one.
func TestErrorRouteGetsTheWholeEvent(t *testing.T) {
	for _, size := range []int{10, 5000, 1 << 20} {
		event := eventOf("1", size)
		for name, request := range map[string]func(url string, body []byte) *http.Request{
			"announced": caddytest.Signed, "in chunks": inChunks,
		} {
			t.Run(fmt.Sprint(size, " ", name), func(t *testing.T) {
				b := caddytest.NewBackend(t, nil)
				s := caddytest.Run(t, withFallback(t, "reverse_proxy "+b.Addr()))
				for range 2 { // no guard has seen the delivery, so it is not recorded
					caddytest.Do(t, request(s.URL("/"), event)).WantForwarded(t)
				}
				b.WantBodies(t, string(event), string(event))
				got := b.Deliveries()[0]
				if values := guardHeadersIn(got.Header); !slices.Equal(values["X-InstantAPI-Verified"], []string{"true"}) ||
					len(values["Idempotency-Key"]) != 1 || got.ContentLength != int64(len(event)) {
					t.Errorf("fallback got %v and a length of %d", values, got.ContentLength)
				}
			})
		}
	}
}

// With a guard in the error route as well, that route's delivery counts.
func TestGuardInTheErrorRouteRecords(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s := caddytest.Run(t, withFallback(t, caddytest.Guard(b, "")))
	event := eventOf("1", 100_000)
	s.Post(t, "/", event).WantForwarded(t)
	s.Post(t, "/", event).WantDuplicate(t)
	b.WantBodies(t, string(event))
}

// The delivery of the error route goes on without the sender as well.
func TestErrorRouteDeliversWhenTheSenderHangsUp(t *testing.T) {
	event := eventOf("1", 100_000)
	ctx, hangUp := context.WithCancel(caddytest.Timeout(t))
	primary := caddytest.NewBackend(t, func(http.ResponseWriter, *http.Request) {
		hangUp()
		time.Sleep(200 * time.Millisecond) // for the news to spread
		panic(http.ErrAbortHandler)
	})
	b := caddytest.NewBackend(t, nil)
	s := caddytest.Run(t, fmt.Sprintf("%s\nhandle_errors 502 {\n%s\n}", caddytest.Guard(primary, ""), caddytest.Guard(b, "")))
	if _, err := caddytest.DoWith(caddytest.Sender, caddytest.Signed(s.URL("/"), event).WithContext(ctx)); err == nil {
		t.Fatal("sender did not hang up")
	}
	caddytest.Eventually(t, "fallback gets the event", func() bool { return len(b.Deliveries()) == 1 })
	b.WantBodies(t, string(event))
	caddytest.Eventually(t, "delivery is recorded", func() bool { return s.Post(t, "/", event).Body == caddytest.Duplicate })
	b.WantBodies(t, string(event))
}

// The retries of an error route's proxy, too, get the whole body or fail.
func TestErrorRouteRetriesWithTheWholeBody(t *testing.T) {
	event := eventOf("1", 200_000)
	for _, protocol := range []string{"h1", "h2c", "fastcgi"} {
		for _, refusal := range []string{"503 behind the body", "503 at once"} {
			if raceDetector && protocol == "h2c" && refusal == "503 at once" {
				continue
			}
			t.Run(protocol+" "+refusal, func(t *testing.T) {
				first, second := newUpstream(t, protocol, refusals[refusal]), newUpstream(t, protocol, nil)
				s := caddytest.Run(t, withFallback(t, fmt.Sprintf("reverse_proxy %s %s {\n%s%s}", first.addr, second.addr, retries, transportOf(protocol))))
				got := s.Post(t, "/", event)
				if got.Status/100 != 2 && protocol == "fastcgi" {
					return // see buffersAPart
				}
				got.WantForwarded(t)
				second.wantBody(t, event)
			})
		}
	}
}

// An error route may keep an event that the guard refuses after it has read the
// body.
func TestErrorRouteGetsTheBodyOfARefusedRequest(t *testing.T) {
	event := eventOf("1", 100_000)
	for name, test := range map[string]struct {
		signature string
		body      []byte
		mark      []string
	}{
		"bad signature": {signature.Sign("another secret", event), event, nil},
		"bad JSON":      {signature.Sign(caddytest.Secret, event[1:]), event[1:], nil},
		"store fails":   {signature.Sign(caddytest.Secret, event), event, []string{"false"}},
	} {
		t.Run(name, func(t *testing.T) {
			b, spool := caddytest.NewBackend(t, nil), caddytest.NewBackend(t, nil)
			s, store := caddytest.RunFaulty(t, caddytest.Guard(b, "")+"\nhandle_errors {\nreverse_proxy "+spool.Addr()+"\n}")
			store.SetFaults(storetest.Always(errors.New("disk on fire")), nil)
			r := inChunks(s.URL("/"), test.body)
			r.Header.Set(signature.DefaultHeader, test.signature)
			caddytest.Do(t, r).WantForwarded(t)
			spool.WantBodies(t, string(test.body))
			if mark := spool.Deliveries()[0].Header.Values("X-InstantAPI-Deduplicated"); !slices.Equal(mark, test.mark) {
				t.Errorf("X-InstantAPI-Deduplicated is %q, want %q", mark, test.mark)
			}
			b.WantDeliveries(t, 0)
		})
	}
}

// A handler in front that answers otherwise where the backend has refused gets the
// body as well.
func TestInterceptingHandlerGetsTheWholeBody(t *testing.T) {
	event := eventOf("1", 100_000)
	refusing := caddytest.NewBackend(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		http.NewResponseController(w).Flush() // no Content-Length, which intercept would keep
	})
	b := caddytest.NewBackend(t, nil)
	s := caddytest.Run(t, fmt.Sprintf("route {\nintercept {\n@refused status 503\nhandle_response @refused {\nreverse_proxy %s\n}\n}\n%s\n}",
		b.Addr(), caddytest.Guard(refusing, "")))
	s.Post(t, "/", event).WantForwarded(t)
	b.WantBodies(t, string(event))
}

// A body that the guard could not read whole can't be read in part.
func TestErrorRouteGetsNoPartOfABody(t *testing.T) {
	large := bytes.Repeat([]byte("x"), 100_000)
	b, spool := caddytest.NewBackend(t, nil), caddytest.NewBackend(t, nil)
	s := caddytest.Run(t, caddytest.Guard(b, "max_body_size 50KB")+"\nhandle_errors {\nreverse_proxy "+spool.Addr()+"\n}")
	if got := caddytest.Do(t, inChunks(s.URL("/"), large)); got.Status/100 == 2 {
		t.Errorf("got %d %s", got.Status, got.Body)
	}
	spool.WantDeliveries(t, 0)
}

// Buffers are reused, but not while an error route may read them: its backend
// never gets a byte of another request.
func TestErrorRouteGetsNoByteOfAnotherRequest(t *testing.T) {
	var got, wrong atomic.Int32
	fallback := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if rand.IntN(2) == 0 {
			http.NewResponseController(w).EnableFullDuplex()
			w.WriteHeader([]int{200, 500}[rand.IntN(2)])
			http.NewResponseController(w).Flush()
			time.Sleep(time.Duration(rand.IntN(3)) * time.Millisecond)
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		got.Add(1)
		if signature.Sign(caddytest.Secret, body) != r.Header.Get(signature.DefaultHeader) {
			wrong.Add(1)
		}
	}))
	defer fallback.Close()
	s := caddytest.Run(t, withFallback(t, "reverse_proxy "+fallback.Listener.Addr().String()))
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}, Timeout: 30 * time.Second}
	defer client.CloseIdleConnections()
	var senders sync.WaitGroup
	for sender := range 8 {
		senders.Go(func() {
			for n := range 60 {
				event := eventOf(fmt.Sprint(sender, "-", n), []int{10, 3000, 40_000, 300_000}[rand.IntN(4)])
				if _, err := caddytest.DoWith(client, caddytest.Signed(s.URL("/"), event)); err != nil {
					t.Log(err) // the fallback may have closed the connection
				}
			}
		})
	}
	senders.Wait()
	if wrong.Load() > 0 || got.Load() < 100 {
		t.Errorf("%d of %d bodies are not what was signed", wrong.Load(), got.Load())
	}
}

// Handlers in front may give the guard a copy of the request: the error route gets
// the body all the same.
func TestErrorRouteGetsTheBodyBehindHandlersThatCopyTheRequest(t *testing.T) {
	t.Setenv("OTEL_TRACES_EXPORTER", "none")
	event := eventOf("1", 100_000)
	for _, recorded := range []bool{false, true} {
		b := caddytest.NewBackend(t, nil)
		fallback := "reverse_proxy " + b.Addr()
		if recorded {
			fallback = caddytest.Guard(b, "")
		}
		s := caddytest.Run(t, "route {\ntracing\nhandle_path /hooks/* {\n"+
			strings.Replace(withFallback(t, fallback), "\nhandle_errors", "\n}\n}\nhandle_errors", 1))
		caddytest.Do(t, inChunks(s.URL("/hooks/1"), event)).WantForwarded(t)
		b.WantBodies(t, string(event))
		if uri := b.Deliveries()[0].RequestURI; uri != "/hooks/1" {
			t.Errorf("fallback got %s", uri)
		}
		got := caddytest.Do(t, inChunks(s.URL("/hooks/1"), event))
		if recorded {
			got.WantDuplicate(t)
		} else {
			got.WantForwarded(t)
		}
		// An error of the error routes has the last word.
		b.Close()
		if got := s.Post(t, "/hooks/1", eventOf("2", 100)); got.Status != http.StatusBadGateway {
			t.Errorf("got %d %s, want 502", got.Status, got.Body)
		}
	}
}

// A guard in an error route answers for itself.
func TestGuardInTheErrorRouteAnswersForItself(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s := caddytest.Run(t, withFallback(t, strings.Replace(caddytest.Guard(b, ""), caddytest.Secret, "another", 1)))
	s.Send(t, "1").WantJSON(t, http.StatusUnauthorized, caddytest.Forged)
	b.WantDeliveries(t, 0)
}

// That holds even if only the error route handles the event.
func TestErrorRouteTakesAnEventThatNoHandlerTook(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s := caddytest.Run(t, fmt.Sprintf("instantapi_verify %s\nreverse_proxy /elsewhere 127.0.0.1:1\nhandle_errors 502 {\n%s\n}",
		caddytest.Secret, caddytest.Guard(b, "")))
	s.Send(t, "1").WantForwarded(t)
	s.Send(t, "1").WantDuplicate(t)
	b.WantDeliveries(t, 1)
}
