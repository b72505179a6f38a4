package examples_test

import (
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
)

// TestExamples does with every example what a reader would: it builds
// examples/caddy, runs it with the example's config and backend, and sends
// events. Only the ports differ.
func TestExamples(t *testing.T) {
	drive := map[string]func(*testing.T){
		"quickstart": func(t *testing.T) { testQuickstart(t, "quickstart/Caddyfile") },
		"json":       func(t *testing.T) { testQuickstart(t, "json/caddy.json") },
		"express":    testExpress,
		"flask":      testFlask,
		"rotation":   testRotation,
		"by-type":    testByType,
		"upstreams":  testUpstreams,
		"fallback":   testFallback,
		"grafana":    testGrafana,
	}
	configs, err := filepath.Glob("*/*[cC]addy[f.]*")
	if err != nil {
		t.Fatal(err)
	}
	if len(configs) != len(drive) {
		t.Errorf("there are %d configs and %d tests that drive them: %q", len(configs), len(drive), configs)
	}
	for _, config := range configs {
		name := filepath.Dir(config)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			caddytest.CheckConfig(t, config, environ...)
			if drive[name] == nil {
				t.Fatal("no test drives this example")
			}
			drive[name](t)
		})
	}
}

func testQuickstart(t *testing.T, config string) {
	url := run(t, config, addresses{":8081": ":" + caddytest.FreePort(t)})
	for _, call := range []call{
		{name: "the first is forwarded", body: event("task.completed", "1"), answer: `"by": "backend"`},
		{name: "its repeat is not", body: event("task.completed", "1"), answer: caddytest.Duplicate},
		{name: "a forgery is refused", body: event("task.completed", "2"), secret: "forged", status: 401},
	} {
		call.make(t, url)
	}
}

func testRotation(t *testing.T) {
	backend := caddytest.NewBackend(t, nil)
	url := run(t, "rotation/Caddyfile", addresses{"127.0.0.1:3000": backend.Addr()})
	for _, call := range []call{
		{name: "old secret", body: event("task.completed", "1"), secret: oldSecret},
		{name: "new secret", body: event("task.completed", "2")},
		{name: "a repeat stays one, signed with the other secret", body: event("task.completed", "1"), answer: caddytest.Duplicate},
		{name: "neither", body: event("task.completed", "3"), secret: "forged", status: 401},
	} {
		call.make(t, url)
	}
	backend.WantBodies(t, event("task.completed", "1"), event("task.completed", "2"))
}

func testByType(t *testing.T) {
	completed, failed := caddytest.NewBackend(t, nil), caddytest.NewBackend(t, nil)
	url := run(t, "by-type/Caddyfile", addresses{
		"127.0.0.1:3000": completed.Addr(),
		"127.0.0.1:3001": failed.Addr(),
	})
	for _, call := range []call{
		{name: "completed", body: event("task.completed", "1")},
		{name: "failed", body: event("task.failed", "2")},
		{name: "failed again", body: event("task.failed", "2"), answer: caddytest.Duplicate},
		{name: "another type", body: event("task.cancelled", "3")},
		{name: "forged", body: event("task.failed", "4"), secret: "forged", status: 401},
	} {
		call.make(t, url)
	}
	completed.WantBodies(t, event("task.completed", "1"), event("task.cancelled", "3"))
	failed.WantBodies(t, event("task.failed", "2"))
}

// unusableUpstreams are the ways in which a first upstream can fail an event.
var unusableUpstreams = map[string]func(*testing.T) (address string){
	"the first is down":             func(t *testing.T) string { return caddytest.FreeAddr(t) },
	"the first dies over the event": dyingUpstream,
}

// largeEvent is larger than the buffers between sender and backend.
func largeEvent() string { return event("task.completed", strings.Repeat("x", 1<<20)) }

func testUpstreams(t *testing.T) {
	for name, first := range unusableUpstreams {
		t.Run(name, func(t *testing.T) { testSecondTakes(t, "upstreams/Caddyfile", first(t)) })
	}
	t.Run("both are up", func(t *testing.T) { testFirstTakes(t, "upstreams/Caddyfile") })
}

// testFallback checks that the error route's guard records what the fallback
// accepts, and nothing else.
func testFallback(t *testing.T) {
	for name, first := range unusableUpstreams {
		t.Run(name, func(t *testing.T) { testSecondTakes(t, "fallback/Caddyfile", first(t)) })
	}
	t.Run("both are up", func(t *testing.T) { testFirstTakes(t, "fallback/Caddyfile") })
	t.Run("both are down", func(t *testing.T) {
		url := run(t, "fallback/Caddyfile", addresses{
			"127.0.0.1:3000": caddytest.FreeAddr(t),
			"127.0.0.1:3001": caddytest.FreeAddr(t),
		})
		for range 2 { // an event that no backend accepted is not a duplicate
			call{name: "refused", body: event("task.completed", "1"), status: 502}.make(t, url)
		}
	})
}

// testSecondTakes checks that the second backend gets the events that the first
// one can't accept, and that they count as delivered.
func testSecondTakes(t *testing.T, config, first string) {
	second := caddytest.NewBackend(t, nil)
	url := run(t, config, addresses{"127.0.0.1:3000": first, "127.0.0.1:3001": second.Addr()})
	for _, call := range []call{
		{name: "forwarded", body: largeEvent()},
		{name: "duplicate", body: largeEvent(), answer: caddytest.Duplicate},
		{name: "forged", body: event("task.completed", "2"), secret: "forged", status: 401},
	} {
		call.make(t, url)
	}
	second.WantBodies(t, largeEvent())
}

func testFirstTakes(t *testing.T, config string) {
	first, second := caddytest.NewBackend(t, nil), caddytest.NewBackend(t, nil)
	url := run(t, config, addresses{"127.0.0.1:3000": first.Addr(), "127.0.0.1:3001": second.Addr()})
	call{name: "forwarded", body: largeEvent()}.make(t, url)
	first.WantBodies(t, largeEvent())
	second.WantBodies(t)
}

// dyingUpstream takes some of a request's body and hangs up.
func dyingUpstream(t *testing.T) (address string) {
	return caddytest.Serve(t, func(conn net.Conn) { _, _ = io.CopyN(io.Discard, conn, 64<<10) })
}
