package instantapi

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
)

func TestAdminAPIFollowsTheConfigInForce(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s, admin := runWithAdmin(t, caddytest.Guard(b, ""))
	s.Send(t, "1").WantForwarded(t)
	task := func() caddytest.Reply { return ask(t, "GET", which(admin, "url="+s.URL("/"), "field=task_id=1"), nil) }

	// one that is refused, after its store has been opened or before
	for range 5 {
		if err := s.Load(strings.Replace(s.Caddyfile(caddytest.Guard(b, "dedupe_by task_id")), "32MiB", "34MiB", 1)); err == nil {
			t.Error("a config with other store options loads")
		}
		if err := s.Load(s.Caddyfile(caddytest.Guard(b, "dedupe_by task_id")) + "http://" + b.Addr() + " {\nrespond taken\n}\n"); err == nil {
			t.Error("a config for a port that is taken loads")
		}
	}
	if got := task(); got.Status != 200 || strings.Count(got.Body, `"identity"`) != 2 {
		t.Errorf("after refused configs: got %d %s", got.Status, got.Body)
	}
	// one that identifies events by another field
	s.MustLoad(caddytest.Guard(b, "dedupe_by task_id"))
	caddytest.Eventually(t, "the new config answers", func() bool { return strings.Count(task().Body, `"identity"`) == 1 })
	// one whose store nobody uses
	s.MustLoad(caddytest.Guard(b, "verify_only"))
	wantRefusal(t, task(), 400, "ask by identity")
	if got := ask(t, "GET", which(admin, "identity="+strings.Repeat("0", 32)), nil); got.Status != 200 {
		t.Errorf("by identity: got %d %s", got.Status, got.Body)
	}
	// one without a store
	s.NoApp = true
	s.MustLoad(caddytest.Guard(b, "verify_only"))
	wantRefusal(t, ask(t, "GET", admin+adminStatus, nil), 404, "no store is open")
	wantRefusal(t, task(), 404, "no store is open")
}

// Requests to the admin API don't disturb a reload, and a reload doesn't
// disturb them.
func TestAdminAPIWhileReloading(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s, admin := runWithAdmin(t, caddytest.Guard(b, ""))
	stop := make(chan struct{})
	var asking sync.WaitGroup
	for range 2 {
		asking.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				for _, uri := range []string{admin + adminStatus, admin + "/metrics", which(admin, "url="+s.URL("/"), "field=task_id=1")} {
					r, _ := http.NewRequest("GET", uri, nil)
					got, err := caddytest.DoWith(caddytest.Sender, r)
					if err == nil && got.Status != 200 && !strings.Contains(got.Body, "no store is open") {
						t.Errorf("%s: got %d %s", uri, got.Status, got.Body)
					}
				}
			}
		})
	}
	for i := range 10 {
		if err := s.Load(s.Caddyfile(caddytest.Guard(b, fmt.Sprintf("retention %dh", i+1)))); err != nil {
			t.Error(err)
		}
		if i%3 == 0 {
			if err := caddy.Stop(); err != nil {
				t.Error(err)
			}
		}
	}
	close(stop)
	asking.Wait()
}
