package examples_test

import (
	"context"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
)

func testExpress(t *testing.T) {
	port := caddytest.FreePort(t)
	testTutorialBackend(t, "express/Caddyfile", port, startExpress(t, port))
}

func startExpress(t *testing.T, port string) *caddytest.Process {
	node, npm := caddytest.LookPath(t, "node"), caddytest.LookPath(t, "npm")
	dir := t.TempDir() // so that npm leaves nothing in the tree
	if err := os.CopyFS(dir, os.DirFS("express")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	install := exec.CommandContext(ctx, npm, "install", "--no-audit", "--no-fund", "--no-package-lock")
	install.Dir = dir
	install.Env = caddytest.UserEnviron()
	install.WaitDelay = 10 * time.Second
	if output, err := install.CombinedOutput(); err != nil {
		caddytest.Missing(t, "npm can't install express here: %v\n%s", err, output)
	}
	server := exec.Command(node, "server.js")
	server.Dir = dir
	server.Env = append(caddytest.UserEnviron(), "PORT="+port)
	return startBackend(t, server, "listening on")
}

func testFlask(t *testing.T) {
	port := caddytest.FreePort(t)
	testTutorialBackend(t, "flask/Caddyfile", port, startFlask(t, port))
}

func startFlask(t *testing.T, port string) *caddytest.Process {
	// Debian's Python comes first: it has Flask if apt installed it, even on a
	// machine whose PATH leads to another Python.
	var python string
	for _, candidate := range []string{"/usr/bin/python3", "python3"} {
		ask := exec.Command(candidate, "-c", "import flask")
		ask.Env = caddytest.UserEnviron() // Flask may be in the user's home directory
		if ask.Run() == nil {
			python = candidate
			break
		}
	}
	if python == "" {
		caddytest.Missing(t, "there is no python3 with Flask here (Debian: apt install python3-flask)")
	}
	server := exec.Command(python, "flask/app.py")
	server.Env = append(caddytest.UserEnviron(), "PORT="+port)
	return startBackend(t, server, "Running on")
}

// startBackend starts a program and waits until it has written that it is ready.
func startBackend(t *testing.T, cmd *exec.Cmd, ready string) *caddytest.Process {
	t.Helper()
	p := caddytest.Start(t, cmd)
	p.WaitFor(t, ready)
	return p
}

// testTutorialBackend drives one of the tutorial's backends, which write a line
// for each event that gets to them.
func testTutorialBackend(t *testing.T, config, port string, backend *caddytest.Process) {
	url := run(t, config, nil, "PORT="+port)
	const received = `"received":`
	large := strings.Replace(event("task.completed", "large"), "{", `{"padding":"`+strings.Repeat("x", 200<<10)+`",`, 1)
	for _, call := range []call{
		{name: "completed", body: event("task.completed", "a"), answer: received},
		{name: "completed again", body: event("task.completed", "a"), answer: caddytest.Duplicate},
		{name: "failed", body: event("task.failed", "b"), answer: received},
		{name: "failed again", body: event("task.failed", "b"), answer: caddytest.Duplicate},
		{name: "another type", body: event("task.cancelled", "c"), answer: received},
		{name: "more than Express takes by default", body: large, answer: received},
		{name: "forged", body: event("task.completed", "forged"), secret: "forged", status: 401},
		{name: "forged, other spelling of the path", path: "/Webhooks/InstantAPI/", body: event("task.completed", "forged"), secret: "forged", status: 401},
		{name: "forged, doubled slash", path: "//webhooks//instantapi", body: event("task.completed", "forged"), secret: "forged", status: 401},
		{name: "forged, dot segment", path: "/x/../webhooks/instantapi", body: event("task.completed", "forged"), secret: "forged", status: 401},
		// This is the last event, so the lines of whatever got through come
		// before its line.
		{name: "completed after failed", body: event("task.completed", "b"), answer: received},
	} {
		call.make(t, url)
	}
	backend.WaitFor(t, "task.completed b ")
	want := []string{"task.completed a", "task.failed b", "ignored task.cancelled c", "task.completed large", "task.completed b"}
	if got := regexp.MustCompile(`(?m)^(task|ignored)\.?\S* \S+( c)?`).FindAllString(backend.Output(), -1); !slices.Equal(got, want) {
		t.Errorf("the backend got %q, want %q", got, want)
	}
	testOddEvents(t, url, backend)
}
