package main

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
)

// scenario is one of the measured ways to answer an event.
type scenario struct {
	name   string
	routes string // of the Caddyfile; {secret}, {store} and {proxy} are filled in
	sync   string // of the guard's store
	sends  kind
	want   answer
	peer   bool // nginx and Redis instead of Caddy
}

// kind is the kind of requests that a scenario gets.
type kind int

const (
	newEvents   kind = iota // signed, each one once
	knownEvents             // signed, and delivered before the clock starts
	forgedEvents
	unsignedEvents
	plainRequests // the same bodies, for a server that does not look at them
)

// answer is the answer that each request of a scenario must get.
type answer struct {
	status int
	body   string
	// forwarded: each event reaches the backend once. Otherwise none does.
	forwarded bool
}

const (
	guard = "instantapi_verify {secret}\n{proxy}"

	// plain is the name of the scenario that all others are compared with.
	plain = "plain"
)

var (
	wantForwarded = answer{http.StatusOK, backendAnswer, true}
	wantRefused   = answer{http.StatusUnauthorized, `{"error": "Invalid signature"}`, false}
	wantDuplicate = answer{http.StatusOK, `{"received": true, "duplicate": true}`, false}
	wantResponded = answer{http.StatusOK, "responded", false}
)

// scenarios are all scenarios, in the order of the table.
var scenarios = []scenario{
	{name: plain, routes: "{proxy}", want: wantForwarded},
	{name: "buffered", routes: "{buffering_proxy}", want: wantForwarded},
	{name: "verify_only", routes: "instantapi_verify {secret} {\nverify_only\n}\n{proxy}", want: wantForwarded},
	{name: "guard", routes: guard, sync: "on", want: wantForwarded},
	{name: "guard_nosync", routes: guard, sync: "off", want: wantForwarded},
	{name: "naive", routes: "naive_verify {secret} {store}\n{proxy}", want: wantForwarded},
	{name: "repeats", routes: guard, sync: "on", sends: knownEvents, want: wantDuplicate},
	{name: "forged", routes: guard, sync: "on", sends: forgedEvents, want: wantRefused},
	{name: "unsigned", routes: guard, sync: "on", sends: unsignedEvents, want: wantRefused},
	{name: "respond", routes: "respond responded 200", sends: plainRequests, want: wantResponded},
}

// peer is measured beside the guard if --peer is given.
var peer = scenario{name: "nginx_redis", want: wantForwarded, peer: true}

// withPeer returns the scenarios with the peer inserted after the guard.
func withPeer(chosen []scenario) []scenario {
	at := slices.IndexFunc(chosen, func(s scenario) bool { return s.name == "guard" })
	if at < 0 {
		return chosen
	}
	return slices.Insert(slices.Clone(chosen), at+1, peer)
}

// findScenarios returns the scenarios with these names, and plain, with which
// they are compared.
func findScenarios(names []string) ([]scenario, error) {
	var found []scenario
	for _, s := range scenarios {
		if s.name == plain || slices.Contains(names, s.name) {
			found = append(found, s)
		}
	}
	for _, name := range names {
		if !slices.ContainsFunc(scenarios, func(s scenario) bool { return s.name == name }) {
			return nil, fmt.Errorf("there is no scenario %q, only %s", name, strings.Join(scenarioNames(), ", "))
		}
	}
	return found, nil
}

func scenarioNames() (names []string) {
	for _, s := range scenarios {
		names = append(names, s.name)
	}
	return names
}

// group is a group of scenarios that take turns, so that other load on the
// machine is spread over all of them.
type group struct {
	size        int // of a body in bytes
	connections int
	rate        float64 // requests/s; 0: as fast as the answers come
	scenarios   []scenario
}

func (g group) String() string {
	load := "closed loop"
	if g.rate > 0 {
		load = fmt.Sprintf("%g requests/s", g.rate)
	}
	return fmt.Sprintf("%s, %s, %s", humanize.IBytes(uint64(g.size)), plural(g.connections, "connection"), load)
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

const defaultRate = 2000

// defaultGroups end within eight minutes: all scenarios with the most usual
// bodies and loads, the guard also with others.
func defaultGroups() []group {
	some, err := findScenarios([]string{"verify_only", "guard"})
	if err != nil {
		panic(err)
	}
	groups := []group{{size: 1 << 10, connections: 64, scenarios: scenarios}}
	for _, size := range []int{1 << 10, 64 << 10, 1 << 20} {
		for _, connections := range []int{1, 16, 64} {
			if size == groups[0].size && connections == groups[0].connections {
				continue
			}
			groups = append(groups, group{size: size, connections: connections, scenarios: some})
		}
	}
	return append(groups,
		group{size: 1 << 10, connections: 256, scenarios: some},
		group{size: 1 << 10, connections: 64, rate: defaultRate, scenarios: some})
}
