package instantapi

import (
	"errors"
	"maps"
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

// The metrics show what is in flight, and what the store refuses to record.
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

// Counting a request allocates nothing.
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
