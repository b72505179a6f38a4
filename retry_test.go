package instantapi

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
	"golang.org/x/net/http2"
)

// eventOf returns an event with this many bytes of text, no two parts of which
// are the same.
func eventOf(taskID string, size int) []byte {
	var text strings.Builder
	for i := 0; text.Len() < size; i++ {
		fmt.Fprintf(&text, "%d ", i)
	}
	return fmt.Appendf(nil, `{"event_type":"task.completed","task_id":%q,"text":%q}`, taskID, text.String())
}

// upstream is a backend that counts its requests and refuses the first ones:
// with 503 before it has read their bodies, with 503 after that, or by closing
// the connection.
type upstream struct {
	addr   string
	got    atomic.Int32
	bodies chan []byte // of those that it has not refused
}

// newUpstream starts one that speaks h1, h2c or fastcgi.
func newUpstream(t *testing.T, protocol string, refuse func(w http.ResponseWriter, r *http.Request)) *upstream {
	t.Helper()
	u := &upstream{bodies: make(chan []byte, 10)}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.got.Add(1)
		if refuse != nil {
			refuse(w, r)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		u.bodies <- body
		io.WriteString(w, caddytest.FromBackend)
	})
	if protocol == "fastcgi" {
		u.addr = serveFastCGI(t, handler)
		return u
	}
	server := httptest.NewUnstartedServer(handler)
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetHTTP1(true)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	t.Cleanup(server.Close)
	u.addr = server.Listener.Addr().String()
	return u
}

// wantBody fails the test unless this is the next body that has arrived.
func (u *upstream) wantBody(t *testing.T, want []byte) {
	t.Helper()
	select {
	case got := <-u.bodies:
		if !bytes.Equal(got, want) {
			t.Errorf("%d bytes arrived, want %d", len(got), len(want))
		}
	default:
		t.Error("nothing has arrived")
	}
}

// refusals are ways not to accept an event.
var refusals = map[string]func(http.ResponseWriter, *http.Request){
	"503 behind the body": func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusServiceUnavailable)
	},
	"503 at once": func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).EnableFullDuplex()
		w.WriteHeader(http.StatusServiceUnavailable)
	},
	"503 in the middle": func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).EnableFullDuplex()
		io.CopyN(io.Discard, r.Body, 5000)
		w.WriteHeader(http.StatusServiceUnavailable)
	},
	"hang up behind the body": func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		panic(http.ErrAbortHandler)
	},
	"hang up in the middle": func(_ http.ResponseWriter, r *http.Request) {
		io.CopyN(io.Discard, r.Body, 5000)
		panic(http.ErrAbortHandler)
	},
}

const retries = "lb_policy first\nlb_retries 2\nfail_duration 10s\nunhealthy_status 503\nlb_retry_match `{rp.is_transport_error} || {rp.status_code} == 503`\n"

func transportOf(protocol string) string {
	switch protocol {
	case "h2c":
		return "transport http {\nversions h2c\n}\n"
	case "fastcgi":
		return "transport fastcgi\n"
	default:
		return ""
	}
}

// With several upstreams the proxy sends the body again, and the guard has
// every byte of it: the second upstream gets all of it.
func TestNextUpstreamGetsTheWholeBody(t *testing.T) {
	for _, protocol := range []string{"h1", "h2c", "fastcgi"} {
		for refusal, refuse := range refusals {
			if protocol == "fastcgi" && strings.HasPrefix(refusal, "hang up") {
				continue // see TestFastCGI...: Go's FastCGI server has no way to hang up
			}
			if raceDetector && protocol == "h2c" && refusal != "503 behind the body" {
				continue
			}
			for _, buffers := range []string{"", "request_buffers 4KiB\n", "request_buffers 100KiB\n", "request_buffers 4MiB\n"} {
				t.Run(protocol+", "+refusal+", "+buffers, func(t *testing.T) {
					first := newUpstream(t, protocol, refuse)
					second := newUpstream(t, protocol, nil)
					s := caddytest.Run(t, fmt.Sprintf("instantapi_verify %s\nreverse_proxy %s %s {\n%s%s%s}",
						caddytest.Secret, first.addr, second.addr, retries, transportOf(protocol), buffers))
					event := eventOf("1", 1<<20)
					got := s.Post(t, "/", event)
					if got.Status == http.StatusBadGateway && buffersAPart(protocol, buffers) {
						return // the proxy has no more of the body, and says so
					}
					got.WantForwarded(t)
					if n := first.got.Load(); n != 1 {
						t.Errorf("first upstream was asked %d times", n)
					}
					second.wantBody(t, event)
					s.Post(t, "/", event).WantDuplicate(t)
				})
			}
		}
	}
}

// buffersAPart reports whether the proxy buffers part of the body, as it does
// for FastCGI by default, and does not read that part again.
func buffersAPart(protocol, buffers string) bool {
	return buffers == "request_buffers 4KiB\n" || buffers == "request_buffers 100KiB\n" || buffers == "" && protocol == "fastcgi"
}

// A small event, which all buffers hold.
func TestNextUpstreamGetsASmallBody(t *testing.T) {
	for _, protocol := range []string{"h1", "h2c", "fastcgi"} {
		first := newUpstream(t, protocol, refusals["503 behind the body"])
		second := newUpstream(t, protocol, nil)
		s := caddytest.Run(t, fmt.Sprintf("instantapi_verify %s\nreverse_proxy %s %s {\n%s%s}",
			caddytest.Secret, first.addr, second.addr, retries, transportOf(protocol)))
		s.Send(t, "1").WantForwarded(t)
		second.wantBody(t, caddytest.Event("1"))
		s.Send(t, "1").WantDuplicate(t)
	}
}

// A connection that the backend closes just when it is reused is no reason for
// a 502.
func TestStaleConnectionIsNoFailure(t *testing.T) {
	var bodies sync.Map // body → how often
	addr := caddytest.Serve(t, func(conn net.Conn) {
		in := bufio.NewReader(conn)
		for n := range 2 {
			r, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			body, err := io.ReadAll(r.Body)
			if err != nil || n == 1 {
				return // as if it had not seen the second one
			}
			bodies.Store(string(body), true)
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	s := caddytest.Run(t, "instantapi_verify "+caddytest.Secret+"\nreverse_proxy "+addr)
	for i := range 10 {
		event := eventOf(fmt.Sprint(i), 100_000)
		s.Post(t, "/", event).Want(t, http.StatusOK, "ok")
		if _, got := bodies.Load(string(event)); !got {
			t.Errorf("event %d has not arrived whole", i)
		}
	}
}

// goAwayBackend speaks h2c, answers one request on each connection, and tells the
// second one, whose body has begun to arrive, to go elsewhere.
func goAwayBackend(t *testing.T, bodies chan<- []byte) (addr string) {
	t.Helper()
	return caddytest.Serve(t, func(conn net.Conn) { serveUntilGoAway(conn, bodies) })
}

func serveUntilGoAway(conn net.Conn, bodies chan<- []byte) {
	if _, err := io.ReadFull(conn, make([]byte, len(http2.ClientPreface))); err != nil {
		return
	}
	framer := http2.NewFramer(conn, conn)
	framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 24})
	framer.WriteWindowUpdate(0, 1<<24)
	var body []byte
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				framer.WriteSettingsAck()
			}
		case *http2.DataFrame:
			if frame.StreamID > 1 {
				framer.WriteGoAway(1, http2.ErrCodeNo, nil)
				io.Copy(io.Discard, conn)
				return
			}
			body = append(body, frame.Data()...)
			if frame.StreamEnded() {
				bodies <- body
				// ":status: 200" is the static table's entry 8.
				framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x88}, EndHeaders: true, EndStream: true})
			}
		}
	}
}

func TestGoAwayIsNoFailure(t *testing.T) {
	if raceDetector {
		return
	}
	bodies := make(chan []byte, 10)
	s := caddytest.Run(t, "instantapi_verify "+caddytest.Secret+"\nreverse_proxy "+goAwayBackend(t, bodies)+" {\n"+transportOf("h2c")+"}")
	for i := range 5 {
		event := eventOf(fmt.Sprint(i), 100_000)
		s.Post(t, "/", event).Want(t, http.StatusOK, "")
		if body := <-bodies; !bytes.Equal(body, event) {
			t.Errorf("event %d: %d bytes arrived, want %d", i, len(body), len(event))
		}
	}
}

// A handler that gives the backend another body is not overruled by GetBody.
func TestReplacedBodyIsNotOverruled(t *testing.T) {
	var conns atomic.Int32
	bodies := make(chan string, 10)
	addr := caddytest.Serve(t, func(conn net.Conn) {
		conns.Add(1)
		in := bufio.NewReader(conn)
		for n := 0; ; n++ {
			r, err := http.ReadRequest(in)
			if err != nil || n == 1 {
				return
			}
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return
			}
			bodies <- string(body)
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	s := caddytest.Run(t, "route {\ninstantapi_verify "+caddytest.Secret+"\nrequest_body {\nset other\n}\nreverse_proxy "+addr+"\n}")
	for i := range 4 {
		got := s.Post(t, "/", eventOf(fmt.Sprint(i), 1000))
		if got.Status != http.StatusOK && got.Status != http.StatusBadGateway {
			t.Errorf("got %d %s", got.Status, got.Body)
		}
	}
	close(bodies)
	for body := range bodies {
		if body != "other" {
			t.Errorf("backend got %q", body)
		}
	}
}

// A proxy may also turn to another backend by its own routes.
func TestHandleResponseGetsTheWholeBody(t *testing.T) {
	event := eventOf("1", 200_000)
	protocols := []string{"h1", "h2c", "fastcgi"}
	for _, one := range protocols {
		for _, two := range protocols {
			t.Run(one+", then "+two, func(t *testing.T) {
				first, second := newUpstream(t, one, refusals["503 behind the body"]), newUpstream(t, two, nil)
				s := caddytest.Run(t, fmt.Sprintf("instantapi_verify %s\nreverse_proxy %s {\n%s@refused status 503\nhandle_response @refused {\nreverse_proxy %s {\n%s}\n}\n}",
					caddytest.Secret, first.addr, transportOf(one), second.addr, transportOf(two)))
				s.Post(t, "/", event).WantForwarded(t)
				second.wantBody(t, event)
				s.Post(t, "/", event).WantDuplicate(t)
			})
		}
	}
}

// What a handler writes behind a status that is not passed on is no success.
func TestAnswerBehindAnEndedAttemptIsNoDelivery(t *testing.T) {
	first := newUpstream(t, "h1", refusals["503 behind the body"])
	second := newUpstream(t, "h1", nil)
	s := caddytest.Run(t, fmt.Sprintf("route {\ninstantapi_verify %s\nintercept {\nhandle_response {\nrespond text {http.intercept.status_code}\n}\n}\nreverse_proxy %s %s {\n%srequest_buffers 4KiB\n}\n}",
		caddytest.Secret, first.addr, second.addr, retries))
	got := s.Post(t, "/", eventOf("1", 100_000))
	got.Want(t, http.StatusBadGateway, `{"error": "No answer"}`)
}
