package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

func TestStatusShowsTheStore(t *testing.T) {
	s, _, _ := runAdminSite(t, newBackend(t, nil))
	s.ask(t, "status").want(t, 0, "badger:", "sync on", "0 remembered", "last error:  none")
	s.post(t, s.hook, "task.completed", "a", fromBackend)
	s.post(t, s.hook, "task.completed", "a", asDuplicate)

	var status struct {
		Store      string
		Remembered int `json:"events_remembered"`
	}
	got := s.ask(t, "status", "--json")
	if err := json.Unmarshal([]byte(got.stdout), &status); err != nil || status.Remembered != 1 || got.status != 0 {
		t.Errorf("%v: exit status %d and %s", err, got.status, got.stdout)
	}
}

func TestStatusFindsTheAddressInAConfig(t *testing.T) {
	s, _, _ := runAdminSite(t, newBackend(t, nil))
	config := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(config, []byte("{\n\tadmin "+s.admin+"\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	runCommand(t, "", "status", "--config", config).want(t, 0, "0 remembered")
}
