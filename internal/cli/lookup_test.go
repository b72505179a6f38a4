package cli

import (
	"encoding/json"
	"testing"
)

func TestLookupTellsWhatHappened(t *testing.T) {
	s, slow, release := runAdminSite(t, newBackend(t, nil))
	s.post(t, s.hook, "task.completed", "a", fromBackend)

	// Without a type, both are meant.
	s.ask(t, "lookup", "--url", s.hook, "--task-id", "a").
		want(t, 0, `"task.completed"`, "delivered", "backend status:  200", " from now)", `"task.failed"`, "unknown")
	s.ask(t, "lookup", "--url", s.hook, "--task-id", "a", "--event-type", "task.failed").want(t, 4, "unknown")
	s.ask(t, "lookup", "--url", s.hook, "--event-type", "task.completed", "--field", "task_id:=1").want(t, 4, "unknown")

	answered := make(chan struct{})
	go func() {
		defer close(answered)
		s.post(t, s.url("/slow"), "task.completed", "slow", "")
	}()
	eventually(t, "the event is being delivered", func() bool { return len(slow.deliveries()) == 1 })
	s.ask(t, "lookup", "--url", s.url("/slow"), "--task-id", "slow", "--event-type", "task.completed").
		want(t, 5, "in flight", "since:")
	s.ask(t, "forget", "--url", s.url("/slow"), "--task-id", "slow").want(t, 5, "in flight")
	close(release)
	<-answered
}

func TestLookupTakesTheIdentityThatItPrints(t *testing.T) {
	s, _, _ := runAdminSite(t, newBackend(t, nil))
	s.post(t, s.hook, "task.completed", "a", fromBackend)
	var found struct {
		Events []struct{ Identity, State string }
	}
	got := s.ask(t, "lookup", "--url", s.hook, "--task-id", "a", "--event-type", "task.completed", "--json")
	if err := json.Unmarshal([]byte(got.stdout), &found); err != nil || len(found.Events) != 1 || found.Events[0].State != "delivered" {
		t.Fatalf("%v: got %s", err, got.stdout)
	}
	s.ask(t, "lookup", "--identity", found.Events[0].Identity).want(t, 0, "delivered", found.Events[0].Identity)
}

func TestLookupSaysWhatIsWrongWithTheQuestion(t *testing.T) {
	s, _, _ := runAdminSite(t, newBackend(t, nil))
	s.ask(t, "lookup", "--task-id", "a").wantError(t, "give either the url")
	s.ask(t, "lookup", "--url", "nonsense", "--task-id", "a").wantError(t, "like https://")
	s.ask(t, "lookup", "--url", s.hook, "--task-id", "a", "--field", "task_id=b").wantError(t, "task_id")
}
