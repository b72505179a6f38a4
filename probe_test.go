package instantapi

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
	"github.com/instantapi/caddy-instantapi-verify/signature"
	"github.com/instantapi/caddy-instantapi-verify/store/storetest"
)

// Probes are answered, and reach neither the backend nor the store. Nothing that
// could be an event is taken for one.
func TestProbesAreOnlyAnswered(t *testing.T) {
	request := func(method, body string) func(url string) *http.Request {
		return func(url string) *http.Request {
			r, _ := http.NewRequest(method, url, strings.NewReader(body))
			return r
		}
	}
	tests := []struct {
		name    string
		request func(string) *http.Request
		status  int
		body    string
	}{
		{"GET", request("GET", ""), 200, caddytest.Received},
		{"HEAD", request("HEAD", ""), 200, ""},
		{"POST without a body", request("POST", ""), 200, caddytest.Received},
		{"POST of something", request("POST", `{"type":"ping"}`), 200, caddytest.Received},
		{"POST of 4 KiB", request("POST", strings.Repeat("x", 4<<10)), 200, caddytest.Received},
		{"POST of more", request("POST", strings.Repeat("x", 4<<10+1)), 401, caddytest.Forged},
		{"unsigned event", request("POST", string(caddytest.Event("1"))), 401, caddytest.Forged},
		{"unsigned event, escaped", request("POST", `{"task\u005fid":"1"}`), 401, caddytest.Forged},
		{"unsigned event, escaped and cut", request("POST", `{"task\u005fid":"1","result":`), 401, caddytest.Forged},
		{"unsigned event, escaped and no JSON", request("POST", `{"task\u005fid":"1","result":NaN}`), 401, caddytest.Forged},
		{"unsigned event in a list", request("POST", `[{"task_id":"1"}]`), 401, caddytest.Forged},
		{"other method", request("PUT", ""), 405, caddytest.Method},
		{"empty signature", func(url string) *http.Request {
			r := request("POST", "")(url)
			r.Header[http.CanonicalHeaderKey(signature.DefaultHeader)] = []string{""}
			return r
		}, 401, caddytest.Forged},
	}
	b := caddytest.NewBackend(t, nil)
	// a failing store shows that it is not asked
	s, faulty := caddytest.RunFaulty(t, caddytest.Guard(b, "answer_verification_requests"))
	faulty.SetFaults(storetest.Always(errors.New("asked")), storetest.Always(errors.New("asked")))
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			caddytest.Do(t, test.request(s.URL("/"))).WantJSON(t, test.status, test.body)
		})
	}
	b.WantDeliveries(t, 0)
}
