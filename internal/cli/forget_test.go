package cli

import (
	"testing"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
)

func TestForgottenEventsAreForwardedAgain(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s, _, _ := runAdminSite(t, b)
	s.post(t, s.hook, "task.completed", "a", caddytest.FromBackend)
	s.ask(t, "forget", "--url", s.hook, "--task-id", "a").Want(t, 0, "forgotten")
	s.ask(t, "forget", "--url", s.hook, "--task-id", "a").Want(t, 4, "unknown")
	s.post(t, s.hook, "task.completed", "a", caddytest.FromBackend)
	s.post(t, s.hook, "task.completed", "a", caddytest.Duplicate)
	b.WantDeliveries(t, 2)
}

func TestForgetForgetsOneEvent(t *testing.T) {
	s, _, _ := runAdminSite(t, caddytest.NewBackend(t, nil))
	s.post(t, s.hook, "task.completed", "a", caddytest.FromBackend)
	s.post(t, s.hook, "task.failed", "a", caddytest.FromBackend)
	got := s.ask(t, "forget", "--url", s.hook, "--task-id", "a")
	wantError(t, got, "more than one event")
	wantError(t, got, "--event-type")
	s.ask(t, "forget", "--url", s.hook, "--task-id", "a", "--event-type", "task.failed").Want(t, 0, "forgotten")
	s.post(t, s.hook, "task.completed", "a", caddytest.Duplicate)
}
