package docs_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
	"github.com/instantapi/caddy-instantapi-verify/signature"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"
)

// TestSpansOfTheDocsHaveTheOutcome runs the config below the heading "Traces",
// once as it stands and once with error routes, and collects the spans.
func TestSpansOfTheDocsHaveTheOutcome(t *testing.T) {
	_, section, found := strings.Cut(caddytest.ReadFile(t, "observing.md"), "\n## Traces\n")
	if !found || len(caddyfiles(section)) != 1 {
		t.Fatal("observing.md has no config below Traces")
	}
	config := caddyfiles(section)[0]
	for name, test := range map[string]struct {
		config   string
		unsigned string // the status of a span whose request is refused before its body is read
	}{
		"as it stands":      {config, "401"},
		"with error routes": {strings.TrimSuffix(config, "}\n") + "\thandle_errors {\n\t\trespond Refused\n\t}\n}\n", "200"},
	} {
		t.Run(name, func(t *testing.T) {
			spans := newCollector(t)
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", spans.URL)
			t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
			addr := serve(t, test.config, caddytest.NewBackend(t, nil))
			send(t, addr, target{"example.com", "/"})
			send(t, addr, target{"example.com", "/"})
			forged := caddytest.SignedWith("forged", "http://"+addr+"/", caddytest.Event("2"))
			forged.Host = "example.com"
			caddytest.Do(t, forged)
			unsigned := caddytest.Signed("http://"+addr+"/", caddytest.Event("3"))
			unsigned.Host = "example.com"
			unsigned.Header.Del(signature.DefaultHeader)
			caddytest.Do(t, unsigned)
			want := []string{"webhook forwarded 1 200", "webhook duplicate 1 200", "webhook bad_signature  401", "webhook bad_signature  " + test.unsigned}
			caddytest.Eventually(t, "the spans are collected", func() bool { return len(spans.collected()) >= len(want) })
			if got := spans.collected(); !slices.Equal(got, want) {
				t.Errorf("got spans %q, want %q", got, want)
			}
		})
	}
}

// spanCollector takes spans as an OpenTelemetry collector does.
type spanCollector struct {
	*httptest.Server
	t *testing.T

	mu    sync.Mutex
	spans []string // name, outcome, task and HTTP status
}

func newCollector(t *testing.T) *spanCollector {
	c := &spanCollector{t: t}
	c.Server = httptest.NewServer(c)
	t.Cleanup(c.Close)
	return c
}

// ServeHTTP implements http.Handler.
func (c *spanCollector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var export collector.ExportTraceServiceRequest
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = proto.Unmarshal(body, &export)
	}
	if err != nil || r.URL.Path != "/v1/traces" {
		c.t.Errorf("%s: %v", r.URL, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range export.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			for _, span := range scope.Spans {
				is := make(map[string]string)
				for _, attribute := range span.Attributes {
					is[attribute.Key] = attribute.Value.GetStringValue()
					if number := attribute.Value.GetIntValue(); number != 0 {
						is[attribute.Key] = strconv.FormatInt(number, 10)
					}
				}
				c.spans = append(c.spans, strings.Join([]string{span.Name, is["instantapi.outcome"], is["instantapi.task_id"], is["http.response.status_code"]}, " "))
			}
		}
	}
}

func (c *spanCollector) collected() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.spans)
}
