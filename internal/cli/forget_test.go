package cli

import "testing"

func TestForgottenEventsAreForwardedAgain(t *testing.T) {
	b := newBackend(t, nil)
	s, _, _ := runAdminSite(t, b)
	s.post(t, s.hook, "task.completed", "a", fromBackend)
	s.ask(t, "forget", "--url", s.hook, "--task-id", "a").want(t, 0, "forgotten")
	s.ask(t, "forget", "--url", s.hook, "--task-id", "a").want(t, 4, "unknown")
	s.post(t, s.hook, "task.completed", "a", fromBackend)
	s.post(t, s.hook, "task.completed", "a", asDuplicate)
	b.wantDeliveries(t, 2)
}

func TestForgetForgetsOneEvent(t *testing.T) {
	s, _, _ := runAdminSite(t, newBackend(t, nil))
	s.post(t, s.hook, "task.completed", "a", fromBackend)
	s.post(t, s.hook, "task.failed", "a", fromBackend)
	got := s.ask(t, "forget", "--url", s.hook, "--task-id", "a")
	got.wantError(t, "more than one event")
	got.wantError(t, "--event-type")
	s.ask(t, "forget", "--url", s.hook, "--task-id", "a", "--event-type", "task.failed").want(t, 0, "forgotten")
	s.post(t, s.hook, "task.completed", "a", asDuplicate)
}
