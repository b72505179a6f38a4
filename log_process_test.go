package instantapi

import (
	"encoding/json"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
)

// A process that ends reports the log lines that it has suppressed.
func TestSuppressedLinesAreToldOfWhenTheProcessEnds(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a process can't be asked to end here")
	}
	s := caddytest.New(t)
	server := s.Start(t, s.Caddyfile("instantapi_verify "+caddytest.Secret))
	const forgeries = 200
	for range forgeries {
		forged := caddytest.SignedWith("forged", s.URL("/"), caddytest.Event("a"))
		caddytest.Do(t, forged).WantJSON(t, http.StatusUnauthorized, caddytest.Forged)
	}
	server.Stop(t)
	told := 0
	for line := range strings.Lines(s.Logged()) {
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
