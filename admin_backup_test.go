package instantapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
)

// postBackup asks for a backup.
func postBackup(t *testing.T, admin, body string) caddytest.Reply {
	t.Helper()
	r, err := http.NewRequest(http.MethodPost, admin+adminBackup, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return caddytest.Do(t, r)
}

func backupBody(directory string) string {
	encoded, _ := json.Marshal(backupQuestion{directory})
	return string(encoded)
}

// A backup of a running Caddy is a store that knows the events which that Caddy
// has delivered.
func TestBackupKnowsWhatWasDelivered(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s, admin := runWithAdmin(t, caddytest.Guard(b, ""))
	for i := range 3 {
		s.Send(t, fmt.Sprint(i)).WantForwarded(t)
	}
	directory := filepath.Join(t.TempDir(), "backup")
	got := postBackup(t, admin, backupBody(directory))
	var answer backupAnswer
	if err := json.Unmarshal([]byte(got.Body), &answer); err != nil || got.Status != 200 ||
		answer.Directory != directory || answer.Events != 3 || answer.Bytes <= 0 {
		t.Fatalf("got %d %s", got.Status, got.Body)
	}
	restored := caddytest.New(t)
	restored.Store = directory
	restored.MustLoad(caddytest.Guard(b, ""))
	for i := range 3 {
		restored.Send(t, fmt.Sprint(i)).WantDuplicate(t)
	}
	b.WantDeliveries(t, 3)
}

func TestBackupIsRefusedByTheAdminAPI(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s, admin := runWithAdmin(t, caddytest.Guard(b, ""))
	wantRefusal(t, ask(t, http.MethodGet, admin+adminBackup, nil), 405, "use POST")
	wantRefusal(t, postBackup(t, admin, "garbage"), 400, "the body is not")
	wantRefusal(t, postBackup(t, admin, backupBody("relative")), 400, "give an absolute path")
	wantRefusal(t, postBackup(t, admin, backupBody(s.Store)), 400, "the directory of the store itself")
}
