package instantapi_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// The commands that ask a running Caddy, as their user runs them.
func TestAdminCommands(t *testing.T) {
	caddy := buildCaddy(t)
	backend := newRecorder(t)
	hold, release := make(chan struct{}), make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		hold <- struct{}{}
		<-release
	}))
	t.Cleanup(slow.Close)
	port, admin := freePort(t), "127.0.0.1:"+freePort(t)
	config := filepath.Join(t.TempDir(), "Caddyfile")
	writeFile(t, config, fmt.Sprintf(`{
	admin %s
}
:%s {
	instantapi_verify %s
	reverse_proxy /slow %s
	reverse_proxy %s
}
`, admin, port, demoSecret, slow.Listener.Addr(), backend.address))
	server := caddy.command(t, "run", "--config", config)
	process := startProcess(t, server, "serving initial configuration")
	url := "http://127.0.0.1:" + port
	hook := url + "/webhooks/instantapi"

	run := func(want int, args ...string) (output string) {
		t.Helper()
		// The default endpoint is another one, so --address or --config it is.
		cmd := caddy.command(t, append([]string{"instantapi"}, args...)...)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		status := 0
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			status = exit.ExitCode()
		} else if err != nil {
			t.Fatal(err)
		}
		if status != want {
			t.Errorf("%q: exit status %d, want %d: %s%s", args, status, want, out, &stderr)
		}
		if (status == 1) != (stderr.Len() > 0) && !strings.Contains(strings.Join(args, " "), "--config") {
			t.Errorf("%q: exit status %d and errors %q", args, status, &stderr)
		}
		if status == 1 {
			if !strings.Contains(stderr.String(), "Error: ") {
				t.Errorf("%q: it is not said for a person: %s", args, &stderr)
			}
			return stderr.String()
		}
		return string(out)
	}
	says := func(output string, words ...string) {
		t.Helper()
		for _, word := range words {
			if !strings.Contains(output, word) {
				t.Errorf("%q is not in\n%s", word, output)
			}
		}
		if strings.Contains(output, demoSecret) {
			t.Errorf("the secret is in\n%s", output)
		}
	}

	says(run(0, "status", "--address", admin), "badger:", "sync on", "0 remembered", "last error:  none")
	call{name: "forwarded", body: event("task.completed", "a")}.make(t, url)
	call{name: "duplicate", body: event("task.completed", "a"), answer: duplicate}.make(t, url)
	says(run(0, "status", "--config", config), "1 remembered")
	var status struct {
		Store      string
		Remembered int `json:"events_remembered"`
	}
	if err := json.Unmarshal([]byte(run(0, "status", "--address", admin, "--json")), &status); err != nil || status.Remembered != 1 {
		t.Errorf("got %+v %v", status, err)
	}

	says(run(0, "lookup", "--address", admin, "--url", hook, "--task-id", "a"),
		`"task.completed"`, "delivered", "backend status:  200", " from now)", `"task.failed"`, "unknown")
	says(run(4, "lookup", "--address", admin, "--url", hook, "--task-id", "a", "--event-type", "task.failed"), "unknown")
	says(run(4, "lookup", "--address", admin, "--url", hook, "--event-type", "task.completed", "--field", "task_id:=1"), "unknown")
	var found struct {
		Events []struct{ Identity, State string }
	}
	output := run(0, "lookup", "--address", admin, "--url", hook, "--task-id", "a", "--event-type", "task.completed", "--json")
	if err := json.Unmarshal([]byte(output), &found); err != nil || len(found.Events) != 1 || found.Events[0].State != "delivered" {
		t.Fatalf("got %s %v", output, err)
	}
	says(run(0, "lookup", "--address", admin, "--identity", found.Events[0].Identity), "delivered")

	// Forgotten, it is forwarded once more.
	says(run(0, "forget", "--address", admin, "--url", hook, "--task-id", "a"), "forgotten")
	says(run(4, "forget", "--address", admin, "--url", hook, "--task-id", "a"), "unknown")
	call{name: "forwarded again", body: event("task.completed", "a")}.make(t, url)
	call{name: "duplicate again", body: event("task.completed", "a"), answer: duplicate}.make(t, url)
	backend.expect(t, event("task.completed", "a"), event("task.completed", "a"))

	call{name: "failed too", body: event("task.failed", "a")}.make(t, url)
	says(run(1, "forget", "--address", admin, "--url", hook, "--task-id", "a"), "more than one event", "--event-type")
	says(run(0, "forget", "--address", admin, "--url", hook, "--task-id", "a", "--event-type", "task.failed"), "forgotten")

	answered := make(chan struct{})
	go func() {
		defer close(answered)
		call{name: "slow", path: "/slow", body: event("task.completed", "slow")}.make(t, url)
	}()
	<-hold
	says(run(5, "lookup", "--address", admin, "--url", url+"/slow", "--task-id", "slow", "--event-type", "task.completed"), "in flight", "since:")
	says(run(5, "forget", "--address", admin, "--url", url+"/slow", "--task-id", "slow"), "in flight")
	close(release)
	<-answered

	says(run(1, "lookup", "--address", admin, "--task-id", "a"), "give either the url")
	says(run(1, "lookup", "--address", admin, "--url", "nonsense", "--task-id", "a"), "like https://")
	says(run(1, "lookup", "--address", admin, "--url", hook, "--task-id", "a", "--field", "task_id=b"), "task_id is there twice")
	says(run(1, "lookup", "--nonsense"), "unknown flag")
	says(run(1, "status", "extra"), "extra")
	says(run(1, "status", "--address", "127.0.0.1:"+freePort(t)), "refused")
	says(run(1, "status", "--config", filepath.Join(t.TempDir(), "none")), "none")

	// When the process ends it tells of the lines that it has not written.
	const forgeries = 200
	for range forgeries {
		call{name: "forged", body: event("task.completed", "a"), secret: "forged", status: 401}.make(t, url)
	}
	process.end(server.Process)
	if runtime.GOOS == "windows" {
		return // it could not be asked to end
	}
	told := 0
	for line := range strings.Lines(process.output()) {
		var entry struct {
			Outcome    string
			Remote     string `json:"remote_addr"`
			Suppressed int
		}
		if json.Unmarshal([]byte(line), &entry) != nil || entry.Outcome != "bad_signature" {
			continue
		}
		told += entry.Suppressed
		if entry.Remote != "" {
			told++
		}
	}
	if told != forgeries {
		t.Errorf("log tells of %d forgeries, want %d", told, forgeries)
	}
}
