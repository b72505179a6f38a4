package caddytest

import (
	"path/filepath"
	"testing"
)

// CheckConfig checks that Caddy accepts a config file as it is and, if that is
// a Caddyfile, that `caddy fmt` would not change it. environ is the environment
// that the config needs.
func CheckConfig(t testing.TB, path string, environ ...string) {
	t.Helper()
	caddy := func(args ...string) (output string, err error) {
		cmd := Command(t, args...)
		cmd.Env = append(cmd.Env, environ...)
		printed, err := cmd.CombinedOutput()
		return string(printed), err
	}
	if output, err := caddy("validate", "--config", path); err != nil {
		t.Errorf("caddy validate: %v\n%s", err, output)
	}
	if filepath.Ext(path) == ".json" {
		return
	}
	if output, err := caddy("adapt", "--validate", "--config", path); err != nil {
		t.Errorf("caddy adapt: %v\n%s", err, output)
	}
	formatted := Command(t, "fmt", path)
	if output, _ := formatted.Output(); string(output) != ReadFile(t, path) { // it fails where it would change something
		t.Errorf("caddy fmt changes it to:\n%s", output)
	}
}
