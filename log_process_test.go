package instantapi_test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// A process that ends tells of the log lines that it has not written.
func TestSuppressedLinesAreToldOfWhenTheProcessEnds(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a process can't be asked to end here")
	}
	caddy, port := buildCaddy(t), freePort(t)
	config := filepath.Join(t.TempDir(), "Caddyfile")
	writeFile(t, config, fmt.Sprintf("{\n\tadmin off\n}\n:%s {\n\tinstantapi_verify %s\n}\n", port, demoSecret))
	server := caddy.command(t, "run", "--config", config)
	process := startProcess(t, server, "serving initial configuration")
	const forgeries = 200
	for range forgeries {
		call{name: "forged", body: event("task.completed", "a"), secret: "forged", status: 401}.make(t, "http://127.0.0.1:"+port)
	}
	process.end(server.Process)
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
