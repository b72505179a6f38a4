package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
	"github.com/instantapi/caddy-instantapi-verify/signature"
)

func TestSandboxAnswers(t *testing.T) {
	target := caddytest.NewBackend(t, nil)
	s := startSandbox(t)
	const path = sandboxPath
	task := fmt.Sprintf(`{"task":"summarize","input":"A text","webhook_url":%q}`, target.URL)
	with := func(from, to string) string { return strings.Replace(task, from, to, 1) }
	const badURL = `{"error":"webhook_url must be an absolute http or https URL"}`
	tests := []struct {
		name         string
		method, path string
		authorize    []string
		body         string
		status       int
		answer       string
	}{
		{"unknown path", "POST", "/", nil, task, 404, `{"error":"Not found"}`},
		{"path with a slash at its end", "POST", path + "/", nil, task, 404, `{"error":"Not found"}`},
		{"doubled slash", "POST", "/" + path, nil, task, 404, `{"error":"Not found"}`},
		{"GET", "GET", path, nil, "", 405, `{"error":"Method not allowed"}`},
		{"a browser that asks for another page", "OPTIONS", path, nil, "", 405, `{"error":"Method not allowed"}`},
		{"no key", "POST", path, []string{}, task, 401, `{"error":"Invalid API key"}`},
		{"empty key", "POST", path, []string{"Bearer "}, task, 401, `{"error":"Invalid API key"}`},
		{"wrong key", "POST", path, []string{"Bearer " + sandboxKey + "x"}, task, 401, `{"error":"Invalid API key"}`},
		{"part of the key", "POST", path, []string{"Bearer demo"}, task, 401, `{"error":"Invalid API key"}`},
		{"other scheme", "POST", path, []string{"Basic " + sandboxKey}, task, 401, `{"error":"Invalid API key"}`},
		{"key alone", "POST", path, []string{sandboxKey}, task, 401, `{"error":"Invalid API key"}`},
		{"two keys", "POST", path, []string{"Bearer " + sandboxKey, "Bearer " + sandboxKey}, task, 401, `{"error":"Invalid API key"}`},
		{"no body", "POST", path, nil, "", 400, `{"error":"Invalid JSON"}`},
		{"half an object", "POST", path, nil, task[:20], 400, `{"error":"Invalid JSON"}`},
		{"two objects", "POST", path, nil, task + task, 400, `{"error":"Invalid JSON"}`},
		{"an array", "POST", path, nil, "[]", 400, `{"error":"The body must be a JSON object"}`},
		{"no task", "POST", path, nil, with(`"task"`, `"tusk"`), 400, `{"error":"task is missing"}`},
		{"name in other letters", "POST", path, nil, with(`"task"`, `"Task"`), 400, `{"error":"task is missing"}`},
		{"empty task", "POST", path, nil, with(`"summarize"`, `""`), 400, `{"error":"task is missing"}`},
		{"number for a task", "POST", path, nil, with(`"summarize"`, `5`), 400, `{"error":"task must be a string"}`},
		{"no webhook_url", "POST", path, nil, with(`"webhook_url"`, `"webhook"`), 400, `{"error":"webhook_url is missing"}`},
		{"object for a webhook_url", "POST", path, nil, with(`"`+target.URL+`"`, `{}`), 400, `{"error":"webhook_url must be a string"}`},
		{"relative webhook_url", "POST", path, nil, with(target.URL, "/webhooks"), 400, badURL},
		{"webhook_url without a scheme", "POST", path, nil, with(target.URL, "localhost:8080/webhooks"), 400, badURL},
		{"webhook_url without a host", "POST", path, nil, with(target.URL, "http://:8080/"), 400, badURL},
		{"webhook_url of a file", "POST", path, nil, with(target.URL, "file:///etc/passwd"), 400, badURL},
		{"webhook_url with a line break", "POST", path, nil, with(target.URL, `http://localhost/\n`), 400, badURL},
		{"deepest input that JSON may have", "POST", path, nil, with(`"A text"`, strings.Repeat("[", 9999)+strings.Repeat("]", 9999)), 400, `{"error":"input is nested too deeply"}`},
		{"largest body", "POST", path, nil, with("A text", strings.Repeat("x", sandboxMaxBody+6-len(task))), 200, ""},
		{"larger body", "POST", path, nil, with("A text", strings.Repeat("x", sandboxMaxBody+7-len(task))), 413, `{"error":"Body too large"}`},
		{"scheme in small letters", "POST", path, []string{"bearer " + sandboxKey}, task, 200, ""},
	}
	accepted := 0
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := s.request(test.method, test.path, test.body)
			if test.authorize != nil {
				r.Header["Authorization"] = test.authorize
			}
			got := caddytest.Do(t, r)
			if test.status == 200 {
				accepted++
				if got.Status != 200 || !regexp.MustCompile(`^{"task_id":"task_[a-z2-7]{12}"}$`).MatchString(got.Body) {
					t.Errorf("got %d %s, want a task_id", got.Status, got.Body)
				}
				return
			}
			got.WantJSON(t, test.status, test.answer)
			if allow := got.Header.Get("Allow"); (allow == "POST") != (test.status == 405) {
				t.Errorf("Allow is %q", allow)
			}
			if scheme := got.Header.Get("WWW-Authenticate"); (scheme == "Bearer") != (test.status == 401) {
				t.Errorf("WWW-Authenticate is %q", scheme)
			}
		})
	}
	s.wrote(accepted, "attempt 1: 200")
	target.WantDeliveries(t, accepted) // and none for what was refused
}

func TestSandboxRefusesABodyThatEndsEarly(t *testing.T) {
	s := startSandbox(t)
	conn, err := net.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(s.url, "http://"), sandboxPath))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Length: 100\r\n\r\n{", sandboxPath, sandboxKey)
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(answer, []byte("400 Bad Request")) || !bytes.Contains(answer, []byte(`{"error":"Incomplete body"}`)) {
		t.Errorf("got %s", answer)
	}
}

func TestSandboxEvent(t *testing.T) {
	for _, test := range []struct{ failRate, eventType, status, result string }{
		{"0", "task.completed", "completed", `{"text":"What the sandbox makes of summarize","input":{"cut":"` + "\ufffd" + `"}}`},
		{"1", "task.failed", "failed", `{"error":"The sandbox lets this task fail","input":{"cut":"` + "\ufffd" + `"}}`},
	} {
		t.Run(test.eventType, func(t *testing.T) {
			target := caddytest.NewBackend(t, nil)
			t.Setenv("THE_SECRET", testSecret)
			s := startSandbox(t, "--secret-env", "THE_SECRET", "--fail-rate", test.failRate)
			id := s.submitBody(fmt.Sprintf(`{"task":"summarize","input":{"cut":"\ud83d"},"webhook_url":"%s/hook?a=b"}`, target.URL))
			s.wrote(1, id+" "+test.eventType+" attempt 1: 200 OK from the backend")

			got := target.Deliveries()[0]
			s.wrote(1, id+" accepted, in 0s "+target.URL+"/hook gets "+string(got.Body))
			if got.Method != http.MethodPost || got.RequestURI != "/hook?a=b" || got.Header.Get("Content-Type") != "application/json" {
				t.Errorf("got %s %s with Content-Type %q", got.Method, got.RequestURI, got.Header.Get("Content-Type"))
			}
			checkSignature(t, got, testSecret)
			var event struct {
				EventType string          `json:"event_type"`
				TaskID    string          `json:"task_id"`
				Status    string          `json:"status"`
				Result    json.RawMessage `json:"result"`
				Usage     struct {
					Cost *float64 `json:"cost"`
				} `json:"usage"`
			}
			dec := json.NewDecoder(bytes.NewReader(got.Body))
			dec.DisallowUnknownFields()
			if err := dec.Decode(&event); err != nil {
				t.Fatal(err)
			}
			if event.EventType != test.eventType || event.TaskID != id || event.Status != test.status ||
				string(event.Result) != test.result || event.Usage.Cost == nil {
				t.Errorf("got the event %s", got.Body)
			}
		})
	}
}

// checkSignature checks a delivery as the guard does.
func checkSignature(t *testing.T, d caddytest.Delivery, secret string) {
	t.Helper()
	verifier, err := signature.NewVerifier(secret)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := signature.Parse(d.Header.Values(signature.DefaultHeader))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verifier.Verify(d.Body, sig); err != nil {
		t.Error(err)
	}
}

func TestSandboxIsBounded(t *testing.T) {
	target := caddytest.NewBackend(t, nil)
	s := startSandbox(t, "--delay", "1h")
	for range sandboxMaxPending {
		s.submit(target.URL)
	}
	got := caddytest.Do(t, s.request(http.MethodPost, sandboxPath, fmt.Sprintf(`{"task":"summarize","webhook_url":%q}`, target.URL)))
	got.WantJSON(t, http.StatusServiceUnavailable, `{"error":"Too many pending tasks"}`)
	if got.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	s.end()
	s.wrote(1, fmt.Sprintf("events undelivered: %d", sandboxMaxPending))
	target.WantDeliveries(t, 0)
}
