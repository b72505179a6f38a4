package instantapi

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
	"github.com/instantapi/caddy-instantapi-verify/signature"
	"github.com/instantapi/caddy-instantapi-verify/store/storetest"
	"go.uber.org/zap"
)

// line is a line of the handler's log.
type line struct {
	Level      string
	Logger     string
	Message    string `json:"msg"`
	Outcome    string
	Reason     string
	Remote     string `json:"remote_addr"`
	Length     int
	Status     int `json:"backend_status"`
	Suppressed int
}

// handlerLines returns what the handler has logged.
func handlerLines(t *testing.T, s *caddytest.Site) (lines []line) {
	t.Helper()
	for text := range strings.Lines(s.Logged()) {
		var l line
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if l.Logger == "http.handlers.instantapi_verify" {
			lines = append(lines, l)
		}
	}
	return lines
}

// flood sends this many requests, over a few connections. A request whose
// connection breaks, as some do during a reload, has not reached the guard.
func flood(t *testing.T, requests int, request func() *http.Request) {
	t.Helper()
	const senders = 8
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: senders}}
	defer client.CloseIdleConnections()
	var wg sync.WaitGroup
	var broken atomic.Int64
	for range senders {
		wg.Go(func() {
			for range requests / senders {
				res, err := client.Do(request())
				for err != nil && broken.Add(1) <= 2*senders {
					res, err = client.Do(request())
				}
				if err != nil {
					t.Error(err)
					return
				}
				io.Copy(io.Discard, res.Body)
				res.Body.Close()
			}
		})
	}
	wg.Wait()
}

// A flood of forgeries writes a few lines per second, even through a reload,
// and all forgeries are counted. A site with error routes is no exception.
func TestFloodWritesFewLines(t *testing.T) {
	requests := 20_000
	if testing.Short() {
		requests = 4000
	}
	for name, more := range map[string]string{
		"":                  "",
		"with error routes": "handle_errors {\nrespond no\n}\n",
	} {
		t.Run(name, func(t *testing.T) {
			b := caddytest.NewBackend(t, nil)
			s := caddytest.New(t)
			info := strings.Replace(s.Caddyfile(more+caddytest.Guard(b, "")), "level DEBUG", "level INFO", 1)
			if err := s.Load(info); err != nil {
				t.Fatal(err)
			}
			forgery := func() *http.Request {
				r := caddytest.Signed(s.URL("/"), caddytest.Event("1"))
				r.Header.Set(signature.DefaultHeader, strings.Repeat("0", 64))
				return r
			}
			start := time.Now()
			flood(t, requests/2, forgery)
			if err := s.Load(strings.Replace(info, "instantapi_verify "+caddytest.Secret+" {", "instantapi_verify "+caddytest.Secret+" {\nretention 1h", 1)); err != nil {
				t.Fatal(err)
			}
			flood(t, requests/2, forgery)
			took := time.Since(start)
			for _, o := range outcomes { // as after a while, or at the process's end
				o.reportSuppressed()
			}
			told, lines := 0, handlerLines(t, s)
			for _, l := range lines {
				if l.Outcome != "bad_signature" || l.Level != "warn" {
					t.Errorf("got a line %+v", l)
				}
				told += l.Suppressed
				if l.Remote != "" {
					told++ // the line's own request
				}
			}
			if told != requests {
				t.Errorf("log tells of %d requests, want %d", told, requests)
			}
			// plus one for each reportAfter, and the last one
			if most := linesAtOnce + int(linesPerSecond*took.Seconds()+1) + int(took/reportAfter) + 2; len(lines) > most {
				t.Errorf("%d lines in %s, want %d at most", len(lines), took, most)
			}
			if all := strings.Count(s.Logged(), "\n"); all > len(lines)+100 {
				t.Errorf("%d lines are not the handler's", all-len(lines))
			}
		})
	}
}

// Replays of an authentic event are just as easy to make.
func TestFloodOfReplaysWritesFewLines(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s := caddytest.Run(t, caddytest.Guard(b, ""))
	start := time.Now()
	flood(t, 2000, func() *http.Request { return caddytest.Signed(s.URL("/"), caddytest.Event("1")) })
	flood(t, 2000, func() *http.Request { return caddytest.Signed(s.URL("/"), []byte("no event")) })
	took := time.Since(start)
	b.WantDeliveries(t, 1)
	if lines := handlerLines(t, s); len(lines) > 3*(linesAtOnce+int(linesPerSecond*took.Seconds())+2) {
		t.Errorf("%d lines in %s", len(lines), took)
	}
}

// When a flood ends, the last count is reported without another line.
func TestSuppressedLinesAreToldLater(t *testing.T) {
	t.Parallel() // it waits for reportAfter
	told := make(chan int64, 1)
	l := newLineLimit(nil)
	l.report = func() { told <- l.suppressed.Swap(0) }
	written := 0
	for range linesAtOnce + 5 {
		if _, ok := l.next(); ok {
			written++
		}
	}
	select {
	case n := <-told:
		if int(n)+written != linesAtOnce+5 {
			t.Errorf("%d lines were written and %d are told, want %d", written, n, linesAtOnce+5)
		}
	case <-time.After(3 * reportAfter):
		t.Error("nothing is told")
	}
}

// Suppressed lines must cost nothing.
func TestSuppressedLineDoesNotAllocate(t *testing.T) {
	o := &outcome{name: "test", lines: newLineLimit(func() {})}
	for range linesAtOnce {
		o.lines.next()
	}
	x := &exchange{handler: &Handler{log: zap.NewExample()}, request: caddytest.Signed("http://localhost/", nil)}
	x.outcome = o
	if n := testing.AllocsPerRun(1000, func() {
		x.logLimited(zap.WarnLevel, "refused", nil)
	}); n > 0 {
		t.Errorf("it allocates %v times", n)
	}
}

// One line an event, at its level.
func TestEachEventHasOneLine(t *testing.T) {
	status := 200
	b := caddytest.NewBackend(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
	s, faulty := caddytest.RunFaulty(t, caddytest.Guard(b, ""))
	send := func(task string) { s.Send(t, task) }
	send("1")
	send("1")
	r := caddytest.Signed(s.URL("/"), caddytest.Event("1"))
	r.Header.Del(signature.DefaultHeader)
	caddytest.Do(t, r)
	status = 500
	send("2")
	faulty.SetFaults(storetest.Always(errors.New("on fire")), nil)
	send("3")
	length := len(caddytest.Event("1"))
	want := []line{
		{Level: "debug", Message: "event forwarded", Outcome: "forwarded", Length: length, Status: 200},
		{Level: "info", Message: "duplicate dropped", Outcome: "duplicate", Length: length},
		{Level: "warn", Message: "request refused", Outcome: "bad_signature", Reason: "signature header is missing", Length: length},
		{Level: "warn", Message: "event was not accepted; it is forwarded again when it is sent again", Outcome: "upstream_failed", Length: length, Status: 500},
		{Level: "error", Message: "store fails: event refused", Outcome: "store_error", Reason: "on fire", Length: length},
	}
	var got []line
	caddytest.Eventually(t, "lines are written", func() bool {
		got = handlerLines(t, s)
		return len(got) >= len(want)
	})
	if len(got) != len(want) {
		t.Fatalf("got %d lines, want %d: %+v", len(got), len(want), got)
	}
	for i := range want {
		if !strings.HasPrefix(got[i].Remote, "127.0.0.1:") {
			t.Errorf("remote address is %q", got[i].Remote)
		}
		got[i].Remote, got[i].Logger = "", ""
		if got[i] != want[i] {
			t.Errorf("line %d is %+v, want %+v", i, got[i], want[i])
		}
	}
}

// Every line has an outcome, also one that is written before the backend has
// answered.
func TestLineOfAnEventForwardedWithoutTheStoreHasAnOutcome(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s, faulty := caddytest.RunFaulty(t, caddytest.Guard(b, "on_store_error forward"))
	faulty.SetFaults(storetest.Always(errors.New("on fire")), nil)
	s.Send(t, "1").WantForwarded(t)
	var got []line
	caddytest.Eventually(t, "lines are written", func() bool {
		got = handlerLines(t, s)
		return len(got) == 2
	})
	for i, want := range []line{
		{Level: "error", Message: "store fails: forwarding an event that may have been delivered before", Outcome: "forwarded", Reason: "on fire"},
		{Level: "debug", Message: "event forwarded", Outcome: "forwarded", Status: 200},
	} {
		want.Remote, want.Logger, want.Length = got[i].Remote, got[i].Logger, got[i].Length
		if got[i] != want {
			t.Errorf("line %d is %+v, want %+v", i, got[i], want)
		}
	}
}

// The line of a dropped event says how to have it delivered once more.
func TestLogTellsHowToDeliverADuplicateAgain(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s, admin := runWithAdmin(t, caddytest.Guard(b, ""))
	s.Send(t, "1").WantForwarded(t)
	s.Send(t, "1").WantDuplicate(t)
	s.Post(t, "/", append(caddytest.Event("1"), ' ')).WantDuplicate(t)
	identity := b.Deliveries()[0].Header.Get("Idempotency-Key")
	told := 0
	for text := range strings.Lines(s.Logged()) {
		var l struct {
			Outcome, Identity string
			Again             string `json:"deliver_again"`
		}
		if json.Unmarshal([]byte(text), &l) != nil || !strings.HasPrefix(l.Outcome, "duplicate") {
			continue
		}
		told++
		if l.Identity != identity || l.Again != "caddy instantapi forget --identity "+identity {
			t.Errorf("got %+v, want the identity %s", l, identity)
		}
		ask(t, "DELETE", which(admin, "identity="+l.Identity), nil)
	}
	if told != 2 {
		t.Errorf("%d lines tell of 2 duplicates", told)
	}
	s.Send(t, "1").WantForwarded(t)
}
