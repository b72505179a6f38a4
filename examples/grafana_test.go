package examples_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
)

// testGrafana checks that a scrape has all that the dashboard and the alert
// rules ask for: a misspelt name shows nothing, and causes no error.
func testGrafana(t *testing.T) {
	backend := caddytest.NewBackend(t, nil)
	metrics := ":" + caddytest.FreePort(t)
	url := run(t, "grafana/Caddyfile", addresses{"127.0.0.1:3000": backend.Addr(), ":9180": metrics})
	for _, call := range []call{
		{name: "forwarded", body: event("task.completed", "1")},
		{name: "duplicate", body: event("task.completed", "1"), answer: caddytest.Duplicate},
		{name: "changed repeat", body: event("task.completed", "1") + " ", answer: caddytest.Duplicate},
		{name: "forged", body: event("task.completed", "2"), secret: "forged", status: 401},
	} {
		call.make(t, url)
	}
	scraped := caddytest.Do(t, caddytest.Unsigned(http.MethodGet, "http://127.0.0.1"+metrics+"/metrics", nil)).Body
	for _, line := range []string{
		`caddy_instantapi_verify_requests_total{outcome="forwarded"} 1`,
		`caddy_instantapi_verify_requests_total{outcome="duplicate"} 1`,
		`caddy_instantapi_verify_requests_total{outcome="duplicate_changed"} 1`,
		`caddy_instantapi_verify_signature_errors_total{reason="mismatch"} 1`,
		`caddy_instantapi_verify_secret_matches_total{secret="1"} 3`,
		`caddy_instantapi_verify_events_remembered 1`,
	} {
		if !strings.Contains(scraped, line+"\n") {
			t.Errorf("scrape has no line %s", line)
		}
	}
	if !json.Valid([]byte(caddytest.ReadFile(t, "grafana/dashboard.json"))) {
		t.Error("dashboard is not JSON")
	}
	for _, file := range []string{"dashboard.json", "alerts.yml"} {
		checkMetricNames(t, file, scraped)
	}
	t.Run("alerts", func(t *testing.T) {
		promtool := caddytest.LookPath(t, "promtool")
		if output, err := exec.Command(promtool, "test", "rules", "grafana/alerts_test.yml").CombinedOutput(); err != nil {
			t.Errorf("promtool: %v\n%s", err, output)
		}
	})
}

// checkMetricNames checks that every metric and every label that a file asks for
// is in the scrape.
func checkMetricNames(t *testing.T, file, scraped string) {
	t.Helper()
	text := strings.ReplaceAll(caddytest.ReadFile(t, filepath.Join("grafana", file)), `\"`, `"`)
	names := regexp.MustCompile(`caddy_instantapi_verify_\w+`).FindAllString(text, -1)
	if len(names) < 3 {
		t.Errorf("%s asks for %d metrics", file, len(names))
	}
	for _, name := range names {
		if !regexp.MustCompile(`(?m)^` + name + `[ {]`).MatchString(scraped) {
			t.Errorf("%s asks for %s, which is in no scrape", file, name)
		}
	}
	for _, label := range regexp.MustCompile(`(outcome|reason)=~?"([\w|]+)"`).FindAllStringSubmatch(text, -1) {
		for value := range strings.SplitSeq(label[2], "|") {
			if series := fmt.Sprintf("{%s=%q}", label[1], value); !strings.Contains(scraped, series) {
				t.Errorf("%s asks for %s, which is in no scrape", file, series)
			}
		}
	}
}
