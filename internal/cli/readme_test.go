package cli

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
)

// TestReadmeTryIt runs the commands that the README, and docs/observing.md
// after it, give for the quick start's Caddy: send, send again, forge, look up,
// forget. It compares what they print. Only the ports differ.
func TestReadmeTryIt(t *testing.T) {
	var pages []byte
	for _, page := range []string{"../../README.md", "../../docs/observing.md"} {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, text...)
	}
	config, err := os.ReadFile("../../examples/quickstart/Caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	s := caddytest.New(t)
	s.Admin = caddytest.FreeAddr(t)
	port := caddytest.Port(s.Addr)
	ports := strings.NewReplacer(":8080", ":"+port, ":8081", ":"+caddytest.FreePort(t))
	s.Start(t, "{\n\tadmin "+s.Admin+"\n}\n"+ports.Replace(string(config)))

	const program = "go run ./examples/caddy instantapi "
	calls := regexp.MustCompile("(?m)```sh\n"+program+"(.*)\n```\n```\n((?s:.*?))```").FindAllStringSubmatch(string(pages), -1)
	var done []string
	for _, call := range calls {
		args := strings.Fields(strings.ReplaceAll(call[1], ":8080", ":"+port))
		if !slices.Contains(args, "--url") {
			args = append(args, "--url", "http://localhost:"+port+"/webhooks/instantapi")
		}
		cmd := instantapiCommand(t, args...)
		cmd.Env = append(cmd.Env, "CADDY_ADMIN="+s.Admin)
		got := caddytest.Finish(t, cmd, nil)
		want, printed := masked(call[2]), masked(got.Stdout)
		if got.Status != 0 || printed != want {
			t.Errorf("%s: exit status %d; it printed\n%s%s, the README has\n%s", call[1], got.Status, printed, got.Stderr, want)
		}
		done = append(done, args[0])
	}
	if want := []string{"send", "send", "send", "lookup", "forget", "send"}; !slices.Equal(done, want) {
		t.Errorf("the README does %q, want %q", done, want)
	}
}

// masked replaces what differs from run to run.
func masked(printed string) string {
	printed = regexp.MustCompile(`task_[a-z0-9]{12}`).ReplaceAllString(printed, "task_X")
	printed = regexp.MustCompile(`\S+T\S+ \(.*\)`).ReplaceAllString(printed, "TIME")
	return regexp.MustCompile(`[0-9.]+ ms`).ReplaceAllString(printed, "N ms")
}
