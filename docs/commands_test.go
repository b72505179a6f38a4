package docs_test

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
)

// TestCommandsPrintWhatTheDocsShow runs the commands of commands.md that need no
// server, as they stand.
func TestCommandsPrintWhatTheDocsShow(t *testing.T) {
	shell := caddytest.LookPath(t, "sh")
	shown := regexp.MustCompile("(?ms)^```sh\n(.*?)^```\n```\n(.*?)^```$").FindAllStringSubmatch(caddytest.ReadFile(t, "commands.md"), -1)
	ran := 0
	for _, example := range shown {
		if !regexp.MustCompile(`instantapi (sign|verify) `).MatchString(example[1]) {
			continue
		}
		ran++
		environ := caddytest.Command(t)
		cmd := exec.Command(shell, "-c", `caddy() { "$CADDY" "$@"; }`+"\n"+example[1])
		cmd.Dir = t.TempDir()
		cmd.Env = append(environ.Env, "CADDY="+filepath.ToSlash(environ.Path))
		if got := caddytest.Finish(t, cmd, nil); got.Stdout != example[2] || got.Stderr != "" {
			t.Errorf("%s\nprinted\n%s%s, the docs have\n%s", example[1], got.Stdout, got.Stderr, example[2])
		}
	}
	if ran < 2 {
		t.Errorf("%d examples were run", ran)
	}
}
