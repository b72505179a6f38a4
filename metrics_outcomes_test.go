package instantapi

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
	"github.com/instantapi/caddy-instantapi-verify/signature"
	"github.com/instantapi/caddy-instantapi-verify/store/storetest"
)

// Each request counts once, under its outcome.
func TestMetricsCountEachOutcome(t *testing.T) {
	s := newCountedSite(t)
	seen := map[string]bool{}
	for _, c := range slices.Concat(s.deliveries(), s.refusals(), s.storeTrouble()) {
		s.wantCounted(c)
		for label := range c.want {
			seen[label] = true
		}
	}
	for series := range scrape(t, s.Site) {
		metric, _, _ := strings.Cut(series, "{")
		if (metric == "requests_total" || metric == "signature_errors_total") && !seen[labelOf(series)] {
			t.Errorf("nothing was counted in %s", series)
		}
	}
}

// counted is something that a sender does, and what must be counted for it, by
// the counters' only label.
type counted struct {
	name string
	do   func()
	want map[string]float64
}

// countedSite has an endpoint for each outcome of a request.
type countedSite struct {
	*caddytest.Site
	t       *testing.T
	store   *storetest.Faulty
	answer  http.HandlerFunc // the backend's, changed between requests
	holding chan struct{}    // receives when the backend begins to hold an event
	release chan struct{}    // closed: the backend no longer holds
}

func newCountedSite(t *testing.T) *countedSite {
	s := &countedSite{t: t, holding: make(chan struct{})}
	b := caddytest.NewBackend(t, func(w http.ResponseWriter, r *http.Request) { s.answer(w, r) })
	const options = "max_body_size 1KB\nanswer_verification_requests\nscope same\nin_flight_wait "
	s.Site, s.store = caddytest.RunFaulty(t, withMetrics("handle /impatient {\n"+caddytest.Guard(b, options+"0s")+"\n}\n"+
		"handle /nobody {\ninstantapi_verify "+caddytest.Secret+"\n}\n"+
		"handle /panics {\ninstantapi_verify "+caddytest.Secret+"\nroute {\ntest panic\n}\n}\n"+
		"handle {\n"+caddytest.Guard(b, options+"30s")+"\n}"))
	return s
}

func (s *countedSite) accept(w http.ResponseWriter, _ *http.Request) {
	io.WriteString(w, caddytest.FromBackend)
}

func (s *countedSite) refuse(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }

func (s *countedSite) hold(http.ResponseWriter, *http.Request) {
	s.holding <- struct{}{}
	<-s.release
}

// deliver sends an event, whatever becomes of it.
func (s *countedSite) deliver(path, task string) {
	s.send(caddytest.Signed(s.URL(path), caddytest.Event(task)))
}

func (s *countedSite) send(r *http.Request) { _, _ = caddytest.DoWith(caddytest.Sender, r) }

func (s *countedSite) sendSignatures(values ...string) {
	r := caddytest.Signed(s.URL("/"), caddytest.Event("forged"))
	r.Header[http.CanonicalHeaderKey(signature.DefaultHeader)] = values
	s.send(r)
}

// breakOff sends part of the body that it announces.
func (s *countedSite) breakOff(sig string) {
	conn, err := net.Dial("tcp", s.Addr)
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: 9\r\nX-InstantAPI-Signature: %s\r\n\r\n{", s.Addr, sig)
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		s.t.Fatal(err)
	}
	_, _ = io.ReadAll(conn)
}

// whileBusy calls meanwhile while the event "busy", new again, is being delivered.
// It must close release.
func (s *countedSite) whileBusy(meanwhile func()) {
	s.store.SetRecords(nil)
	s.release, s.answer = make(chan struct{}), s.hold
	delivered := make(chan struct{})
	go func() {
		defer close(delivered)
		s.deliver("/", "busy")
	}()
	<-s.holding
	meanwhile()
	<-delivered
}

// waitForBusy sends the event "busy" once more and has it wait for the delivery.
func (s *countedSite) waitForBusy() {
	waited := make(chan struct{})
	go func() {
		defer close(waited)
		s.deliver("/", "busy")
	}()
	time.Sleep(200 * time.Millisecond) // to be sure that it waits
	close(s.release)
	<-waited
}

func (s *countedSite) deliveries() []counted {
	one := func(label string) map[string]float64 { return map[string]float64{label: 1} }
	return []counted{
		{"forwarded", func() { s.answer = s.accept; s.deliver("/", "1") }, one("forwarded")},
		{"duplicate", func() { s.deliver("/", "1") }, one("duplicate")},
		{"changed", func() { s.send(caddytest.Signed(s.URL("/"), append(caddytest.Event("1"), ' '))) }, one("duplicate_changed")},
		{"backend fails", func() { s.answer = s.refuse; s.deliver("/", "2") }, one("upstream_failed")},
		{"nobody takes it", func() { s.deliver("/nobody", "2") }, one("upstream_failed")},
		{"handler panics", func() { s.deliver("/panics", "2") }, one("upstream_failed")},
		{"sender waits for a delivery", func() { s.whileBusy(s.waitForBusy) }, map[string]float64{"forwarded": 1, "waited": 1}},
		{"sender does not wait", func() {
			s.whileBusy(func() { s.deliver("/impatient", "busy"); close(s.release) })
		}, map[string]float64{"forwarded": 1, "in_flight_timeout": 1}},
	}
}

func (s *countedSite) refusals() []counted {
	another := signature.Sign(caddytest.Secret, caddytest.Event("another"))
	one := func(label string) map[string]float64 { return map[string]float64{label: 1} }
	forged := func(reason string) map[string]float64 { return map[string]float64{"bad_signature": 1, reason: 1} }
	return []counted{
		{"no signature", func() { s.sendSignatures() }, forged("missing")},
		{"two signatures", func() { s.sendSignatures(another, another) }, forged("repeated")},
		{"no digits", func() { s.sendSignatures("x") }, forged("malformed")},
		{"wrong signature", func() { s.sendSignatures(another) }, forged("mismatch")},
		{"too large", func() { s.send(caddytest.Signed(s.URL("/"), make([]byte, 2000))) }, one("too_large")},
		{"sender breaks off", func() { s.breakOff(another) }, one("incomplete")},
		{"no JSON", func() { s.send(caddytest.Signed(s.URL("/"), []byte("hello"))) }, one("bad_json")},
		{"PUT", func() { s.send(caddytest.Unsigned("PUT", s.URL("/"), nil)) }, one("method")},
		{"verification request", func() { s.send(caddytest.Unsigned("GET", s.URL("/"), nil)) }, one("verification_request")},
	}
}

func (s *countedSite) storeTrouble() []counted {
	onFire := storetest.Always(errors.New("on fire"))
	during := func(lookup, record storetest.Fault, task string) func() {
		return func() {
			s.answer = s.accept
			s.store.SetFaults(lookup, record)
			s.deliver("/", task)
			s.store.SetFaults(nil, nil)
		}
	}
	return []counted{
		{"store fails", during(onFire, nil, "3"), map[string]float64{"store_error": 1, "lookup": 1}},
		{"store fails after the delivery", during(nil, onFire, "4"), map[string]float64{"forwarded": 1, "record": 1}},
	}
}

// wantCounted does what is to be counted and fails the test unless it is.
func (s *countedSite) wantCounted(c counted) {
	s.t.Helper()
	before := scrape(s.t, s.Site)
	c.do()
	got := map[string]float64{}
	// A sender may get its answer before the request has ended.
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		clear(got)
		after := scrape(s.t, s.Site)
		for _, metric := range []string{"requests_total", "signature_errors_total", "store_errors_total"} {
			for series, change := range changes(metric, before, after) {
				got[labelOf(series)] = change
			}
		}
		if maps.Equal(got, c.want) {
			return
		}
	}
	s.t.Errorf("%s: counted %v, want %v", c.name, got, c.want)
}

// labelOf returns the value of a series' only label.
func labelOf(series string) string { return strings.Split(series, `"`)[1] }
