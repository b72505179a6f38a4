package cli

import (
	"encoding/json"
	"testing"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
)

func TestLookupTellsWhatHappened(t *testing.T) {
	s, slow, release := runAdminSite(t, caddytest.NewBackend(t, nil))
	s.post(t, s.hook, "task.completed", "a", caddytest.FromBackend)

	// Without a type, the question is about both.
	s.ask(t, "lookup", "--url", s.hook, "--task-id", "a").
		Want(t, 0, `"task.completed"`, "delivered", "backend status:  200", " from now)", `"task.failed"`, "unknown")
	s.ask(t, "lookup", "--url", s.hook, "--task-id", "a", "--event-type", "task.failed").Want(t, 4, "unknown")
	s.ask(t, "lookup", "--url", s.hook, "--event-type", "task.completed", "--field", "task_id:=1").Want(t, 4, "unknown")

	answered := make(chan struct{})
	go func() {
		defer close(answered)
		s.post(t, s.URL("/slow"), "task.completed", "slow", "")
	}()
	caddytest.Eventually(t, "the event is being delivered", func() bool { return len(slow.Deliveries()) == 1 })
	s.ask(t, "lookup", "--url", s.URL("/slow"), "--task-id", "slow", "--event-type", "task.completed").
		Want(t, 5, "in flight", "since:")
	s.ask(t, "forget", "--url", s.URL("/slow"), "--task-id", "slow").Want(t, 5, "in flight")
	close(release)
	<-answered
}

func TestLookupTakesTheIdentityThatItPrints(t *testing.T) {
	s, _, _ := runAdminSite(t, caddytest.NewBackend(t, nil))
	s.post(t, s.hook, "task.completed", "a", caddytest.FromBackend)
	var found struct {
		Events []struct{ Identity, State string }
	}
	got := s.ask(t, "lookup", "--url", s.hook, "--task-id", "a", "--event-type", "task.completed", "--json")
	if err := json.Unmarshal([]byte(got.Stdout), &found); err != nil || len(found.Events) != 1 || found.Events[0].State != "delivered" {
		t.Fatalf("%v: got %s", err, got.Stdout)
	}
	s.ask(t, "lookup", "--identity", found.Events[0].Identity).Want(t, 0, "delivered", found.Events[0].Identity)
}

func TestLookupSaysWhatIsWrongWithTheQuestion(t *testing.T) {
	s, _, _ := runAdminSite(t, caddytest.NewBackend(t, nil))
	wantError(t, s.ask(t, "lookup", "--task-id", "a"), "give the url that")
	wantError(t, s.ask(t, "lookup", "--url", "nonsense", "--task-id", "a"), "like https://")
	wantError(t, s.ask(t, "lookup", "--url", s.hook, "--task-id", "a", "--field", "task_id=b"), "task_id")
}
