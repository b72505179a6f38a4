package examples_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
)

// TestSubmit runs the whole loop: the tutorial's clients submit tasks to the
// sandbox, and the tutorial's backends get the results through Caddy. Half of
// the events are delivered twice, half of the tasks fail, and each backend at
// first fails on half of the events. All the same it gets each result once.
func TestSubmit(t *testing.T) {
	clients := submitClients(t)
	for _, backend := range []struct {
		name, config string
		start        func(t *testing.T, port string) *caddytest.Process
	}{
		{"Express", "express/Caddyfile", startExpress},
		{"Flask", "flask/Caddyfile", startFlask},
	} {
		t.Run(backend.name, func(t *testing.T) {
			t.Parallel()
			port := caddytest.FreePort(t)
			received := backend.start(t, port)
			endpoint := run(t, backend.config, nil, "PORT="+failFirst(t, port)) + "/webhooks/instantapi"
			sandbox := startSandbox(t, "--register", endpoint)

			const tasksEach = 12
			inputs := make(map[string]string) // by task
			for name, command := range clients {
				for i := range tasksEach {
					input := fmt.Sprintf("%s %d, \"quoted\", naïve ☃", name, i)
					inputs[sandbox.submit(t, command, endpoint, input)] = input
				}
			}
			if len(inputs) != len(clients)*tasksEach {
				t.Fatalf("%d tasks got %d IDs", len(clients)*tasksEach, len(inputs))
			}
			sandbox.waitForDeliveries(t, inputs)
			checkReceived(t, received.Output(), inputs)
			checkSent(t, sandbox.Output(), inputs)
		})
	}
}

// TestSubmitErrors submits tasks in ways that must fail. One line says why, and
// does not contain the key.
func TestSubmitErrors(t *testing.T) {
	const key = "tell-nobody"
	answer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `{"received": true}`)
	}))
	t.Cleanup(answer.Close)
	nobody := "http://" + caddytest.FreeAddr(t)
	for client, command := range submitClients(t) {
		for _, test := range []struct{ name, key, url, want string }{
			{"no key", "", nobody, "set INSTANTAPI_API_KEY"},
			{"key with a line break at its end", key + "\r\n", nobody, "white space in INSTANTAPI_API_KEY"},
			{"key with a line break in it", key + "\n" + key, nobody, "white space in INSTANTAPI_API_KEY"},
			{"nobody listens", key, nobody, "refused"},
			{"not the sender", key, answer.URL, "no task_id"},
		} {
			t.Run(client+", "+test.name, func(t *testing.T) {
				output, err := runSubmit(t, command, "A text", "INSTANTAPI_URL="+test.url, "INSTANTAPI_API_KEY="+test.key, "INSTANTAPI_WEBHOOK_URL="+nobody)
				if err == nil || !strings.Contains(strings.ToLower(output), strings.ToLower(test.want)) || strings.Count(output, "\n") != 1 {
					t.Errorf("%v: it printed %q, want one line with %q", err, output, test.want)
				}
				if strings.Contains(output, key) {
					t.Errorf("the key is in %q", output)
				}
			})
		}
	}
}

// submitClients are the commands that submit tasks.
func submitClients(t *testing.T) map[string][]string {
	python, err := exec.LookPath("python3")
	if err != nil {
		python = caddytest.LookPath(t, "python")
	}
	return map[string][]string{
		"JavaScript": {caddytest.LookPath(t, "node"), "submit/submit.js"},
		"Python":     {python, "submit/submit.py"},
	}
}

// runSubmit submits a task.
func runSubmit(t *testing.T, client []string, input string, env ...string) (output string, err error) {
	cmd := exec.CommandContext(t.Context(), client[0], client[1], "summarize", input)
	cmd.Env = slices.Concat(caddytest.UserEnviron(), env, []string{"no_proxy=127.0.0.1", "PYTHONUTF8=1"})
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// sandboxProcess is a `caddy instantapi sandbox`.
type sandboxProcess struct {
	*caddytest.Process
	url string
}

func startSandbox(t *testing.T, args ...string) sandboxProcess {
	address := caddytest.FreeAddr(t)
	cmd := caddy(t, slices.Concat([]string{
		"instantapi", "sandbox", "--listen", address, "--delay", "10ms", "--backoff", "50ms",
		"--duplicate-rate", "0.5", "--fail-rate", "0.5", "--secret-env", "INSTANTAPI_WEBHOOK_SECRET",
	}, args)...)
	return sandboxProcess{startBackend(t, cmd, "taking tasks on"), "http://" + address}
}

// submit submits a task with one of the clients and returns the task's ID.
func (s sandboxProcess) submit(t *testing.T, client []string, endpoint, input string) (taskID string) {
	t.Helper()
	output, err := runSubmit(t, client, input,
		"INSTANTAPI_URL="+s.url, "INSTANTAPI_API_KEY=demo-key", "INSTANTAPI_WEBHOOK_URL="+endpoint)
	if err != nil {
		t.Fatalf("%s: %v\n%s", client[1], err, output)
	}
	return strings.TrimSpace(output)
}

// waitForDeliveries waits until nothing is left to be sent.
func (s sandboxProcess) waitForDeliveries(t *testing.T, tasks map[string]string) {
	t.Helper()
	left := func(output string) (id string) {
		for id := range tasks {
			attempts := regexp.MustCompile(id+` task\.\w+( copy \d of 2)? attempt \d+: (.*)`).FindAllStringSubmatch(output, -1)
			acknowledged, copies := 0, 1
			for _, attempt := range attempts {
				if attempt[1] != "" {
					copies = 2
				}
				if strings.HasPrefix(attempt[2], "200 ") {
					acknowledged++
				}
			}
			if acknowledged != copies {
				return id
			}
		}
		return ""
	}
	caddytest.Eventually(t, "all events are delivered", func() bool { return left(s.Output()) == "" })
}

// checkReceived checks that each task's result has arrived at the backend, whole
// and once. The backend writes a line for each event.
func checkReceived(t *testing.T, output string, inputs map[string]string) {
	t.Helper()
	results := make(map[string][]string)
	for _, line := range regexp.MustCompile(`(?m)^(?:task|ignored)\S* (\S+) (.*)$`).FindAllStringSubmatch(output, -1) {
		results[line[1]] = append(results[line[1]], line[2])
	}
	for id, input := range inputs {
		if len(results[id]) != 1 {
			t.Errorf("the result of %s arrived %d times: %q", id, len(results[id]), results[id])
			continue
		}
		var about struct {
			Result struct {
				Input string `json:"input"`
			} `json:"result"`
		}
		if err := json.Unmarshal([]byte(results[id][0]), &about); err != nil {
			t.Fatal(err)
		}
		if about.Result.Input != input {
			t.Errorf("%s was handed in with %q and its result is of %q", id, input, about.Result.Input)
		}
	}
	if len(results) != len(inputs) {
		t.Errorf("results of %d tasks arrived, want %d", len(results), len(inputs))
	}
}

// checkSent checks that there were failures and repeats. With 24 tasks, chance
// leaves one of them out once in some millions of runs.
func checkSent(t *testing.T, output string, tasks map[string]string) {
	t.Helper()
	for what, pattern := range map[string]string{
		"duplicates":             `attempt \d+: 200 OK {"received": true, "duplicate": true}`,
		"completed tasks":        `task\.completed.* attempt \d+: 200`,
		"failed tasks":           `task\.failed.* attempt \d+: 200`,
		"errors of the backend":  `: 500 Internal Server Error .*, again in`,
		"connections that broke": `: 502 Bad Gateway, again in`,
		"unsigned first request": `registering .* unsigned GET: 405`,
	} {
		if !regexp.MustCompile(pattern).MatchString(output) {
			t.Errorf("there are no %s among what was sent for %d tasks", what, len(tasks))
		}
	}
}

// failFirst stands between Caddy and a backend and fails the first attempt at
// every other event, alternately with an error and without an answer. It
// returns its port.
func failFirst(t *testing.T, port string) string {
	target, err := url.Parse("http://127.0.0.1:" + port)
	if err != nil {
		t.Fatal(err)
	}
	backend := httputil.NewSingleHostReverseProxy(target)
	var mu sync.Mutex
	seen := make(map[string]bool)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		id := r.Header.Get("Idempotency-Key") // the same for each attempt at an event
		again := seen[id]
		seen[id] = true
		n := len(seen)
		mu.Unlock()
		switch {
		case again || n%2 == 1:
			backend.ServeHTTP(w, r)
		case n%4 == 2:
			_, _ = io.Copy(io.Discard, r.Body)
			http.Error(w, "at first it fails", http.StatusInternalServerError)
		default:
			panic(http.ErrAbortHandler)
		}
	}))
	t.Cleanup(server.Close)
	// On a connection that is used again, Caddy's proxy would make up for the break
	// by itself: it knows that the event can be sent again.
	server.Config.SetKeepAlivesEnabled(false)
	return server.URL[strings.LastIndex(server.URL, ":")+1:]
}
