package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
)

func TestStatusShowsTheStore(t *testing.T) {
	s, _, _ := runAdminSite(t, caddytest.NewBackend(t, nil))
	s.ask(t, "status").Want(t, 0, "badger:", "sync on", "0 remembered", "last error:  none")
	s.post(t, s.hook, "task.completed", "a", caddytest.FromBackend)
	s.post(t, s.hook, "task.completed", "a", caddytest.Duplicate)

	var status struct {
		Store      string
		Remembered int `json:"events_remembered"`
	}
	got := s.ask(t, "status", "--json")
	if err := json.Unmarshal([]byte(got.Stdout), &status); err != nil || status.Remembered != 1 || got.Status != 0 {
		t.Errorf("%v: exit status %d and %s", err, got.Status, got.Stdout)
	}
}

func TestStatusFindsTheAddressInAConfig(t *testing.T) {
	s, _, _ := runAdminSite(t, caddytest.NewBackend(t, nil))
	config := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(config, []byte("{\n\tadmin "+s.Admin+"\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	runCommand(t, "", "status", "--config", config).Want(t, 0, "0 remembered")
}
