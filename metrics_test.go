package instantapi

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
	"github.com/instantapi/caddy-instantapi-verify/signature"
	"github.com/instantapi/caddy-instantapi-verify/store/storetest"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

// withMetrics returns routes with Caddy's metrics beside them.
func withMetrics(routes string) string {
	return "handle /metrics {\nmetrics\n}\nhandle {\n" + routes + "\n}"
}

// scrape returns the site's metrics: the value by name and labels, as in
// `caddy_instantapi_verify_requests_total{outcome="forwarded"}`, without the
// prefix that they all have.
func scrape(t *testing.T, s *caddytest.Site) map[string]float64 {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, s.URL("/metrics"), nil)
	if err != nil {
		t.Fatal(err)
	}
	got := caddytest.Do(t, r)
	if got.Status != http.StatusOK {
		t.Fatalf("got %d %s", got.Status, got.Body)
	}
	return parseMetrics(t, got.Body)
}

func parseMetrics(t *testing.T, text string) map[string]float64 {
	t.Helper()
	values := map[string]float64{}
	for line := range strings.Lines(text) {
		series, ours := strings.CutPrefix(line, "caddy_instantapi_verify_")
		if !ours {
			continue
		}
		name, value, _ := strings.Cut(strings.TrimSpace(series), " ")
		number, err := strconv.ParseFloat(value, 64)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		values[name] = number
	}
	return values
}

// changes returns the counters of that metric that differ, and by how much.
func changes(metric string, before, after map[string]float64) map[string]float64 {
	changed := map[string]float64{}
	for name, value := range after {
		if strings.HasPrefix(name, metric) && value != before[name] {
			changed[name] = value - before[name]
		}
	}
	return changed
}

// Each request counts once, under what became of it.
func TestMetricsCountEachOutcome(t *testing.T) {
	hold, release := make(chan struct{}), make(chan struct{})
	var answer http.HandlerFunc
	b := caddytest.NewBackend(t, func(w http.ResponseWriter, r *http.Request) { answer(w, r) })
	accept := func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "from the backend") }
	refuse := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }
	keep := func(w http.ResponseWriter, _ *http.Request) {
		hold <- struct{}{}
		<-release
		w.WriteHeader(200)
	}
	options := "max_body_size 1KB\nanswer_verification_requests\nin_flight_wait "
	s, faulty := caddytest.RunFaulty(t, withMetrics("handle /impatient {\n"+caddytest.Guard(b, options+"0s\nscope same")+"\n}\n"+
		"handle /nobody {\ninstantapi_verify "+caddytest.Secret+"\n}\n"+
		"handle /panics {\ninstantapi_verify "+caddytest.Secret+"\nroute {\ntest panic\n}\n}\n"+
		"handle {\n"+caddytest.Guard(b, options+"30s\nscope same")+"\n}"))

	send := func(r *http.Request) { caddytest.DoWith(caddytest.Sender, r) }
	event := func(path, task string) { send(caddytest.Signed(s.URL(path), caddytest.Event(task))) }
	withSignature := func(values ...string) {
		r := caddytest.Signed(s.URL("/"), caddytest.Event("forged"))
		r.Header[http.CanonicalHeaderKey(signature.DefaultHeader)] = values
		send(r)
	}
	request := func(method, path string) {
		r, err := http.NewRequest(method, s.URL(path), nil)
		if err != nil {
			t.Fatal(err)
		}
		send(r)
	}
	good := signature.Sign(caddytest.Secret, caddytest.Event("another"))
	// while another request is delivering event "busy"
	busy := func(meanwhile func()) {
		answer = keep
		delivered := make(chan struct{})
		go func() {
			defer close(delivered)
			event("/", "busy")
		}()
		<-hold
		meanwhile()
		<-delivered
	}
	tests := []struct {
		name string
		do   func()
		want map[string]float64
	}{
		{"forwarded", func() { answer = accept; event("/", "1") }, map[string]float64{"forwarded": 1}},
		{"duplicate", func() { event("/", "1") }, map[string]float64{"duplicate": 1}},
		{"changed", func() { send(caddytest.Signed(s.URL("/"), append(caddytest.Event("1"), ' '))) }, map[string]float64{"duplicate_changed": 1}},
		{"backend fails", func() { answer = refuse; event("/", "2") }, map[string]float64{"upstream_failed": 1}},
		{"nobody takes it", func() { event("/nobody", "2") }, map[string]float64{"upstream_failed": 1}},
		{"handler panics", func() { event("/panics", "2") }, map[string]float64{"upstream_failed": 1}},
		{"impatient", func() {
			busy(func() { event("/impatient", "busy"); close(release) })
		}, map[string]float64{"forwarded": 1, "in_flight_timeout": 1}},
		{"waits for a delivery", func() {
			faulty.SetRecords(nil)
			release = make(chan struct{})
			busy(func() {
				waited := make(chan struct{})
				go func() {
					defer close(waited)
					event("/", "busy")
				}()
				time.Sleep(200 * time.Millisecond) // to be sure that it waits
				close(release)
				<-waited
			})
		}, map[string]float64{"forwarded": 1, "waited": 1}},
		{"no signature", func() { withSignature() }, map[string]float64{"bad_signature": 1, "missing": 1}},
		{"two signatures", func() { withSignature(good, good) }, map[string]float64{"bad_signature": 1, "repeated": 1}},
		{"no digits", func() { withSignature("x") }, map[string]float64{"bad_signature": 1, "malformed": 1}},
		{"wrong", func() { withSignature(good) }, map[string]float64{"bad_signature": 1, "mismatch": 1}},
		{"too large", func() { send(caddytest.Signed(s.URL("/"), make([]byte, 2000))) }, map[string]float64{"too_large": 1}},
		{"breaks off", func() {
			conn, err := net.Dial("tcp", s.Addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: 9\r\nX-InstantAPI-Signature: %s\r\n\r\n{", s.Addr, good)
			conn.(*net.TCPConn).CloseWrite()
			io.ReadAll(conn)
		}, map[string]float64{"incomplete": 1}},
		{"no JSON", func() { send(caddytest.Signed(s.URL("/"), []byte("hello"))) }, map[string]float64{"bad_json": 1}},
		{"PUT", func() { request("PUT", "/") }, map[string]float64{"method": 1}},
		{"verification request", func() { request("GET", "/") }, map[string]float64{"verification_request": 1}},
		{"store fails", func() {
			faulty.SetFaults(storetest.Always(errors.New("on fire")), nil)
			event("/", "3")
			faulty.SetFaults(nil, nil)
		}, map[string]float64{"store_error": 1, "lookup": 1}},
		{"store fails after the delivery", func() {
			faulty.SetFaults(nil, storetest.Always(errors.New("on fire")))
			answer = accept
			event("/", "4")
			faulty.SetFaults(nil, nil)
		}, map[string]float64{"forwarded": 1, "record": 1}},
	}
	seen := map[string]bool{}
	label := func(series string) string { // the only one's value
		return strings.Split(series, `"`)[1]
	}
	for _, test := range tests {
		before := scrape(t, s)
		test.do()
		want := maps.Clone(test.want)
		got := map[string]float64{}
		// a caddytest.Sender may have its answer before the request has ended
		for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			clear(got)
			after := scrape(t, s)
			for _, metric := range []string{"requests_total", "signature_errors_total", "store_errors_total"} {
				for series, change := range changes(metric, before, after) {
					got[label(series)] = change
				}
			}
			if maps.Equal(got, want) {
				break
			}
		}
		if !maps.Equal(got, want) {
			t.Errorf("%s: counted %v, want %v", test.name, got, want)
		}
		for name := range test.want {
			seen[name] = true
		}
	}
	for series := range scrape(t, s) {
		metric, _, _ := strings.Cut(series, "{")
		if (metric == "requests_total" || metric == "signature_errors_total") && !seen[label(series)] {
			t.Errorf("nothing was counted in %s", series)
		}
	}
}

// A series that appears with its first event has no increase to be alerted to.
func TestMetricsAreThereFromTheStart(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s := caddytest.Run(t, withMetrics(caddytest.Guard(b, "secret another")))
	got := slices.Collect(maps.Keys(scrape(t, s)))
	for _, want := range []string{
		`requests_total{outcome="store_error"}`, `requests_total{outcome="bad_signature"}`,
		`signature_errors_total{reason="mismatch"}`, `secret_matches_total{secret="2"}`,
		`store_errors_total{operation="record"}`, `batch_events_count`,
	} {
		if !slices.Contains(got, want) {
			t.Errorf("there is no %s", want)
		}
	}
}

func TestMetricsGoOnAfterAReload(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s := caddytest.New(t)
	another := caddytest.FreeAddr(t)
	load := func(options string) {
		t.Helper()
		second := "http://" + another + " {\ninstantapi_verify old new {\n" + options + "\n}\nreverse_proxy " + b.Addr() + "\n}\n"
		second = strings.Replace(second, "old new {", "{\nsecret old new", 1)
		if err := s.Load(s.Caddyfile(withMetrics(caddytest.Guard(b, options))) + second); err != nil {
			t.Fatal(err)
		}
	}
	send := func(url, secret, task string) {
		t.Helper()
		r := caddytest.Signed(url, caddytest.Event(task))
		r.Header.Set(signature.DefaultHeader, signature.Sign(secret, caddytest.Event(task)))
		caddytest.Do(t, r).WantForwarded(t)
	}
	load("")
	before := scrape(t, s)
	send(s.URL("/"), caddytest.Secret, "1")
	send("http://"+another+"/", "new", "3")
	load("retention 1h")
	send(s.URL("/"), caddytest.Secret, "2")
	send("http://"+another+"/", "new", "4")
	after := scrape(t, s)
	for metric, want := range map[string]map[string]float64{
		"requests_total":                   {`requests_total{outcome="forwarded"}`: 4},
		"secret_matches_total":             {`secret_matches_total{secret="1"}`: 2, `secret_matches_total{secret="2"}`: 2},
		"signature_duration_seconds_count": {"signature_duration_seconds_count": 4},
		"lookup_duration_seconds_count":    {"lookup_duration_seconds_count": 4},
		"record_duration_seconds_count":    {"record_duration_seconds_count": 4},
		"batch_events_sum":                 {"batch_events_sum": 4},
		"events_remembered":                {"events_remembered": 4},
		"events_in_flight":                 {},
	} {
		if got := changes(metric, before, after); !maps.Equal(got, want) {
			t.Errorf("%s: changes are %v, want %v", metric, got, want)
		}
	}
	if after["store_bytes"] <= 0 || after["store_free_bytes"] <= 0 || after["store_min_free_bytes"] != 32<<20 {
		t.Errorf("store has %v bytes, %v free of at least %v", after["store_bytes"], after["store_free_bytes"], after["store_min_free_bytes"])
	}
	// A reload that fails leaves the figures of the one that goes on.
	if err := s.Load(strings.Replace(s.Caddyfile(withMetrics(caddytest.Guard(b, ""))), "32MiB", "34MiB", 1)); err == nil {
		t.Error("a config with other store options loads")
	}
	if got := scrape(t, s)["events_remembered"]; got != 4 {
		t.Errorf("after a failed reload %v events are remembered, want 4", got)
	}
}

func TestMetricsWithoutAStore(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s := caddytest.Run(t, withMetrics(caddytest.Guard(b, "")))
	if _, there := scrape(t, s)["events_remembered"]; !there {
		t.Error("store is not there")
	}
	config := s.Caddyfile(withMetrics(caddytest.Guard(b, "verify_only")))
	config = config[:strings.Index(config, "\tinstantapi_verify {\n\t\tstore")] + "}\n" + config[strings.Index(config, "http://"):]
	if err := s.Load(config); err != nil {
		t.Fatal(err)
	}
	metrics := scrape(t, s)
	if _, there := metrics["events_remembered"]; there {
		t.Error("store is still there")
	}
	if _, there := metrics[`requests_total{outcome="forwarded"}`]; !there {
		t.Error("requests are not counted")
	}
}

// What is in flight and what the store refuses is seen while it is so.
func TestMetricsOfTheMoment(t *testing.T) {
	hold, release := make(chan struct{}), make(chan struct{})
	b := caddytest.NewBackend(t, func(w http.ResponseWriter, _ *http.Request) {
		hold <- struct{}{}
		<-release
	})
	s, faulty := caddytest.RunFaulty(t, withMetrics(caddytest.Guard(b, "")))
	faulty.SetFaults(nil, storetest.Always(errors.New("on fire")))
	go caddytest.DoWith(caddytest.Sender, caddytest.Signed(s.URL("/"), caddytest.Event("1")))
	<-hold
	if got := scrape(t, s); got["events_in_flight"] != 1 || got["events_unrecorded"] != 0 {
		t.Errorf("%v in flight, %v unrecorded, want 1 and 0", got["events_in_flight"], got["events_unrecorded"])
	}
	close(release)
	caddytest.Eventually(t, "delivery ends", func() bool {
		got := scrape(t, s)
		return got["events_in_flight"] == 0 && got["events_unrecorded"] == 1
	})
	faulty.SetFaults(nil, nil)
	caddytest.Eventually(t, "delivery is recorded", func() bool { return scrape(t, s)["events_unrecorded"] == 0 })
}

// The names follow Prometheus's own rules.
func TestMetricsAreNamedAsPrometheusAsks(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s := caddytest.Run(t, withMetrics(caddytest.Guard(b, "")))
	r, err := http.NewRequest(http.MethodGet, s.URL("/metrics"), nil)
	if err != nil {
		t.Fatal(err)
	}
	text := new(strings.Builder)
	for line := range strings.Lines(caddytest.Do(t, r).Body) {
		if strings.Contains(line, "caddy_instantapi_verify_") {
			text.WriteString(line)
		}
	}
	if n := strings.Count(text.String(), "# TYPE"); n < 14 {
		t.Errorf("only %d metrics are there", n)
	}
	problems, err := promlint.New(strings.NewReader(text.String())).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range problems {
		t.Errorf("%s: %s", problem.Metric, problem.Text)
	}
}

// Counting costs a request nothing that a collector would have to clean up.
func TestCountingDoesNotAllocate(t *testing.T) {
	ev := &event{outcome: answerForSignature(signature.ErrMismatch).outcome}
	matches := countersOfSecrets(1)
	if n := testing.AllocsPerRun(1000, func() {
		verifySeconds.Observe(1e-6)
		matches[0].Inc()
		ev.count()
	}); n > 0 {
		t.Errorf("counting allocates %v times", n)
	}
}

func BenchmarkCounting(b *testing.B) {
	ev := &event{outcome: outcomeForwarded}
	b.ReportAllocs()
	for b.Loop() {
		start := time.Now()
		verifySeconds.Observe(time.Since(start).Seconds())
		ev.count()
	}
}
