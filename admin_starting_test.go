package instantapi

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
)

// If no store is open the admin API says why: the store is still being opened,
// or can't be opened, with the reason.
func TestAdminAPIBeforeTheStoreIsOpen(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s, open := newWaitingSite(t)
	s.Admin = caddytest.FreeAddr(t)
	admin := "http://" + s.Admin
	event := which(admin, "identity="+strings.Repeat("0", 32))
	status := func() (report statusReport) {
		ask(t, "GET", admin+adminStatus, &report)
		return report
	}
	loaded := make(chan error)
	go func() { loaded <- s.start(caddytest.Guard(b, "")) }()
	caddytest.Eventually(t, "Caddy says that the store is being opened", func() bool {
		got, err := caddytest.DoWith(caddytest.Sender, caddytest.Unsigned(http.MethodGet, admin+adminStatus, nil))
		return err == nil && got.Status == 200 && strings.Contains(got.Body, "store is still being opened")
	})
	select {
	case err := <-loaded:
		t.Fatalf("the config has been loaded (%v): this proves nothing", err)
	default:
	}
	for _, method := range []string{"GET", "DELETE"} {
		wantRefusal(t, ask(t, method, event, nil), 503, "store is still being opened")
	}
	if err := <-loaded; err != nil {
		t.Fatal(err)
	}
	if report := status(); report.NotOpen != "store is still being opened" {
		t.Errorf("when the config is in force, the status is %+v", report)
	}

	open <- errors.New("it is damaged: restore it")
	caddytest.Eventually(t, "Caddy says why the store is not open", func() bool {
		return status().NotOpen == "it is damaged: restore it"
	})
	for _, method := range []string{"GET", "DELETE"} {
		wantRefusal(t, ask(t, method, event, nil), 503, "it is damaged: restore it")
	}
}

// After a config that fails to load, the config in force still answers.
func TestAdminAPIWhenAStoreFailsToOpen(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s := newStartingSite(t, func(context.Context) error { return errors.New("it is damaged: restore it") })
	s.Admin = caddytest.FreeAddr(t)
	good := *s.Site
	good.NoApp = true
	if err := s.Load(good.Caddyfile("respond bare")); err != nil {
		t.Fatal(err)
	}
	caddytest.WantError(t, s.start(caddytest.Guard(b, "")), "it is damaged: restore it")
	wantRefusal(t, ask(t, "GET", "http://"+s.Admin+adminStatus, nil), 404, "no store is open: the config has no instantapi_verify")
}

// Before there is a config, the admin API does not say that the config needs no
// store.
func TestAdminAPIBeforeTheFirstConfig(t *testing.T) {
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, handle := range []caddy.AdminHandlerFunc{handleStatus, handleEvent} {
		err := handle(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, adminStatus, nil))
		answer, ok := errors.AsType[caddy.APIError](err)
		if !ok || answer.HTTPStatus != http.StatusServiceUnavailable || !strings.Contains(err.Error(), "no config is in force yet") {
			t.Errorf("got %v, want status 503 and that no config is in force yet", err)
		}
	}
}
