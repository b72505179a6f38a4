package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestLatencyCountsFromWhenARequestWasDue(t *testing.T) {
	const takes = 50 * time.Millisecond
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		time.Sleep(takes)
		io.WriteString(w, "late")
	}))
	defer slow.Close()
	tmpl, err := newTemplate(1 << 10)
	if err != nil {
		t.Fatal(err)
	}
	stamps, err := tmpl.sign(0, 100)
	if err != nil {
		t.Fatal(err)
	}
	l := &load{addr: slow.Listener.Addr().String(), template: tmpl, stamps: stamps,
		want: answer{200, "late", true}, connections: 1, rate: 100, duration: time.Second}
	o, err := l.run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if last := o.latencies[len(o.latencies)-1]; last < 5*takes {
		t.Errorf("the latest answer was %s late", last)
	}
	if o.behind < 70 {
		t.Errorf("behind by %d of 100 requests, though no more than 20 can have been answered", o.behind)
	}
}

func TestOverloadIsReported(t *testing.T) {
	for _, test := range []struct {
		rate        float64
		connections int
		behind      bool
	}{{10, 64, false}, {200_000, 2, true}} {
		o := short(t, group{size: 1 << 10, connections: test.connections, rate: test.rate, scenarios: scenarios[:1]})
		var out strings.Builder
		if err := runAndReport(t.Context(), o, &out, io.Discard); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(out.String(), "plain fell behind by") != test.behind {
			t.Errorf("at %g requests/s:\n%s", test.rate, out.String())
		}
	}
}

func TestWarmUpIsNotCounted(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, "warm")
	}))
	defer server.Close()
	tmpl, err := newTemplate(1 << 10)
	if err != nil {
		t.Fatal(err)
	}
	stamps, err := tmpl.sign(0, 20)
	if err != nil {
		t.Fatal(err)
	}
	l := &load{addr: server.Listener.Addr().String(), template: tmpl, stamps: stamps,
		want: answer{200, "warm", true}, connections: 2, warmup: time.Minute, duration: time.Minute}
	o, err := l.run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if o.sent != len(stamps) || o.requests != 0 || len(o.latencies) != 0 {
		t.Errorf("%d sent, %d counted with %d latencies, want 20, 0 and 0", o.sent, o.requests, len(o.latencies))
	}
}
