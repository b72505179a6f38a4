package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
)

func TestSendShowsForwardedDuplicateForged(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	url := guarded(t, b)

	runCommand(t, "", "send", "--url", url, "--secret", testSecret, "--task-id", "one", "--repeat", "1").
		Want(t, 0, "task.completed", "one", "200 forwarded", "from the backend", " ms\n", "200 duplicate", caddytest.Duplicate)
	runCommand(t, "", "send", "--url", url, "--secret-env", "TEST_SECRET", "--task-id", "one").
		Want(t, 0, "200 duplicate")
	runCommand(t, "", "send", "--url", url, "--secret", testSecret, "--forge", "--repeat", "1").
		Want(t, 0, "401 refused", caddytest.Forged, "401 refused")
	runCommand(t, "", "send", "--url", url, "--secret", testSecret, "--event-type", "task.failed").
		Want(t, 0, "task.failed", "200 forwarded")

	got := b.Deliveries()
	if len(got) != 2 {
		t.Fatalf("backend got %d events, want 2", len(got))
	}
	const completed = `{"event_type":"task.completed","task_id":"one","status":"completed","result":{"text":"Made up by caddy instantapi send"},"usage":{"cost":0.01}}`
	if string(got[0].Body) != completed {
		t.Errorf("backend got %s, want %s", got[0].Body, completed)
	}
	if !regexp.MustCompile(`^{"event_type":"task.failed","task_id":"task_\w{12}","status":"failed","result":{"error":".+"},"usage":{.+}}$`).Match(got[1].Body) {
		t.Errorf("backend got %s, want a failed event", got[1].Body)
	}
	if contentType := got[0].Header.Get("Content-Type"); contentType != "application/json" {
		t.Errorf("Content-Type is %q", contentType)
	}
}

func TestSendMakesEachEventNew(t *testing.T) {
	url := guarded(t, caddytest.NewBackend(t, nil))
	for range 2 {
		runCommand(t, "", "send", "--url", url, "--secret", testSecret).Want(t, 0, "200 forwarded")
	}
}

func TestSendKeepsTheBytesOfAFile(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	url := guarded(t, b)
	body := "{ \"event_type\": \"task.completed\",\r\n \"task_id\": \"f\u00fcnf\\u001b\" }\n\n"
	file := filepath.Join(t.TempDir(), "event.json")
	if err := os.WriteFile(file, []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
	runCommand(t, "", "send", "--url", url, "--secret", testSecret, "--file", file).
		Want(t, 0, "task_id f\u00fcnf\ufffd\n", "200 forwarded")
	runCommand(t, body, "send", "--url", url, "--secret", testSecret, "--file", "-").
		Want(t, 0, "200 duplicate")
	if got := b.Deliveries(); len(got) != 1 || string(got[0].Body) != body {
		t.Errorf("backend got %v, want one request with %q", got, body)
	}
}

func TestSendExitStatuses(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	url := guarded(t, b)
	open := strings.TrimSuffix(url, "/webhooks/instantapi") + "/open"
	elsewhere := caddytest.NewBackend(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/elsewhere", http.StatusPermanentRedirect)
	})
	rude := caddytest.NewBackend(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		io.WriteString(w, "\x1b[2J"+strings.Repeat("long ", 1000))
	})
	silence := make(chan struct{})
	silent := caddytest.NewBackend(t, func(http.ResponseWriter, *http.Request) { <-silence })
	endless := caddytest.NewBackend(t, func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "{")
		http.NewResponseController(w).Flush()
		<-silence
	})
	t.Cleanup(func() { close(silence) })

	for _, test := range []struct {
		name    string
		args    []string
		status  int
		printed []string
		stderr  string
	}{
		{"wrong secret", []string{"--url", url, "--secret", "another"}, 2, []string{"401 refused"}, "refused"},
		{"one of two refused", []string{"--url", rude.URL, "--repeat", "1"}, 2, []string{"500 refused", "500 refused"}, "2 of 2"},
		{"no terminal codes", []string{"--url", rude.URL}, 2, []string{"500 refused     \ufffd[2Jlong ", "...  "}, "refused"},
		{"a redirect is no delivery", []string{"--url", elsewhere.URL}, 2, []string{"308 refused", "/elsewhere"}, "refused"},
		{"another signature header", []string{"--url", url, "--signature-header", "X-Other"}, 2, []string{"401 refused"}, "refused"},
		{"a forgery got through", []string{"--url", open, "--forge"}, 2, []string{"200 forwarded"}, "not answered with 401"},
		{"a forgery was refused by something else", []string{"--url", rude.URL, "--forge"}, 2, []string{"500 refused"}, "not answered with 401"},
		{"nobody listens", []string{"--url", "http://" + caddytest.FreeAddr(t)}, 3, []string{"--- no answer"}, "1 of 1 requests got no answer"},
		{"nobody listens, forged", []string{"--url", "http://" + caddytest.FreeAddr(t), "--forge"}, 3, []string{"--- no answer"}, "no answer"},
		{"nobody answers", []string{"--url", silent.URL, "--timeout", "100ms"}, 3, []string{"--- no answer", "no whole answer within 100ms"}, "no answer"},
		{"an answer without an end", []string{"--url", endless.URL, "--timeout", "100ms"}, 3, []string{"--- no answer", "no whole answer within 100ms"}, "no answer"},
		{"count, refused", []string{"--url", rude.URL, "--count", "3"}, 2, []string{"refused            3", "status 500         3"}, "3 of 3"},
		{"count, forged", []string{"--url", url, "--count", "3", "--forge"}, 0, []string{"refused            3", "status 401         3"}, ""},
		{"count, nobody listens", []string{"--url", "http://" + caddytest.FreeAddr(t), "--count", "3"}, 3, []string{"no answer          3", "refused"}, "no answer"},
	} {
		t.Run(test.name, func(t *testing.T) {
			args := append([]string{"send"}, test.args...)
			if !strings.Contains(strings.Join(args, " "), "--secret ") {
				args = append(args, "--secret", testSecret)
			}
			got := runCommand(t, "", args...)
			got.Want(t, test.status, test.printed...)
			if !strings.Contains(got.Stderr, test.stderr) {
				t.Errorf("standard error is %q, want %q in it", got.Stderr, test.stderr)
			}
			if strings.Contains(got.Stdout, "\x1b") {
				t.Errorf("the answer's control characters get to the terminal: %q", got.Stdout)
			}
		})
	}
}

func TestSendPrintsJSON(t *testing.T) {
	url := guarded(t, caddytest.NewBackend(t, nil))
	got := runCommand(t, "", "send", "--url", url, "--secret", testSecret, "--task-id", "j", "--repeat", "1", "--json")
	got.Want(t, 0)
	var outcomes []string
	for line := range strings.Lines(got.Stdout) {
		var answer struct {
			TaskID  string  `json:"task_id"`
			Status  int     `json:"status"`
			Outcome string  `json:"outcome"`
			Answer  string  `json:"answer"`
			Seconds float64 `json:"seconds"`
		}
		if err := json.Unmarshal([]byte(line), &answer); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if answer.TaskID != "j" || answer.Status != 200 || answer.Answer == "" || answer.Seconds <= 0 {
			t.Errorf("it printed %s", line)
		}
		outcomes = append(outcomes, answer.Outcome)
	}
	if fmt.Sprint(outcomes) != "[forwarded duplicate]" {
		t.Errorf("outcomes are %s", outcomes)
	}

	got = runCommand(t, "", "send", "--url", "http://"+caddytest.FreeAddr(t), "--secret", testSecret, "--json")
	got.Want(t, 3)
	var answer map[string]any
	if err := json.Unmarshal([]byte(got.Stdout), &answer); err != nil || answer["outcome"] != "no_answer" || answer["error"] == "" {
		t.Errorf("%v: it printed %s", err, got.Stdout)
	}
}

func TestSendDoesNotPrintAPasswordOfTheURL(t *testing.T) {
	for _, address := range []string{caddytest.NewBackend(t, nil).Addr(), caddytest.FreeAddr(t)} {
		url := "http://user:hunter2@" + address
		for _, args := range [][]string{nil, {"--json"}, {"--count", "2"}, {"--count", "2", "--json"}} {
			got := runCommand(t, "", append([]string{"send", "--url", url, "--secret", testSecret}, args...)...)
			if got.Status == 1 || strings.Contains(got.Stdout+got.Stderr, "hunter2") {
				t.Errorf("%s: exit status %d, %s%s", args, got.Status, got.Stdout, got.Stderr)
			}
		}
	}
}
