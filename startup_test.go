package instantapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
	"github.com/instantapi/caddy-instantapi-verify/store"
	"github.com/instantapi/caddy-instantapi-verify/store/storetest"
)

// startingSite is a site beside a plain one, with a store whose opening a test
// decides.
type startingSite struct {
	*caddytest.Site
	other string // the plain site's address
}

func newStartingSite(t *testing.T, open func(context.Context) error) *startingSite {
	t.Helper()
	s := &startingSite{caddytest.New(t), caddytest.FreeAddr(t)}
	s.Faulty = new(storetest.Faulty)
	s.Faulty.SetOpenFault(open)
	return s
}

// newWaitingSite has a store whose opening takes until its result is sent.
func newWaitingSite(t *testing.T) (s *startingSite, result chan<- error) {
	t.Helper()
	results := make(chan error)
	s = newStartingSite(t, func(ctx context.Context) error {
		select {
		case err := <-results:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	return s, results
}

func (s *startingSite) start(routes string) error {
	return s.Load(s.Caddyfile(routes) + "http://" + s.other + " {\nrespond bare\n}\n")
}

func (s *startingSite) wantOtherSite(t *testing.T) {
	t.Helper()
	caddytest.Do(t, caddytest.Signed("http://"+s.other, nil)).Want(t, 200, "bare")
}

// unavailable is a fault that can pass by itself.
func unavailable(context.Context) error { return fmt.Errorf("disk is full: %w", store.ErrUnavailable) }

// A fault that can pass by itself keeps no other site down, and the guard
// accepts events as soon as it has passed.
func TestUnavailableStoreIsOpenedWhenItCanBe(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s := newStartingSite(t, unavailable)
	if err := s.start(caddytest.Guard(b, "")); err != nil {
		t.Fatal(err)
	}
	s.wantOtherSite(t)
	got := s.Send(t, "1")
	got.WantJSON(t, http.StatusServiceUnavailable, caddytest.NoStore)
	if got.Header.Get("Retry-After") == "" {
		t.Error("there is no Retry-After")
	}
	b.WantDeliveries(t, 0)
	if !strings.Contains(s.Logged(), "disk is full") {
		t.Error("the log does not say why the store is not open")
	}

	s.Faulty.SetOpenFault(nil)
	caddytest.Eventually(t, "events are taken", func() bool { return s.Send(t, "1").Status == 200 })
	s.Send(t, "1").WantDuplicate(t)
	b.WantDeliveries(t, 1)
}

// The status says why the store is not open, and the metrics say that it is
// not.
func TestStatusOfAStoreThatIsNotOpen(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s := newStartingSite(t, unavailable)
	s.Admin = caddytest.FreeAddr(t)
	s.MustLoad(caddytest.Guard(b, ""))
	var report statusReport
	ask(t, "GET", "http://"+s.Admin+adminStatus, &report)
	if !strings.Contains(report.NotOpen, "disk is full") || report.LastError == nil {
		t.Errorf("got %+v", report)
	}
	metrics := func() string {
		r, err := http.NewRequest(http.MethodGet, "http://"+s.Admin+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		return caddytest.Do(t, r).Body
	}
	if got := metrics(); !strings.Contains(got, "caddy_instantapi_verify_store_open 0") {
		t.Error("the metrics do not say that the store is not open")
	}
	s.Faulty.SetOpenFault(nil)
	caddytest.Eventually(t, "the metrics say that the store is open", func() bool {
		return strings.Contains(metrics(), "caddy_instantapi_verify_store_open 1")
	})
}

// With on_store_error forward, events that were delivered without the store are
// recorded when it opens.
func TestDeliveriesBeforeTheStoreIsOpenAreRecordedLater(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s := newStartingSite(t, unavailable)
	if err := s.start(caddytest.Guard(b, "on_store_error forward")); err != nil {
		t.Fatal(err)
	}
	s.Send(t, "1").WantForwarded(t)
	if got := b.Deliveries()[0].Header.Get("X-InstantAPI-Deduplicated"); got != "false" {
		t.Errorf("the delivery is marked %q, want false", got)
	}
	s.Send(t, "1").WantDuplicate(t)
	s.Faulty.SetOpenFault(nil)
	caddytest.Eventually(t, "the delivery is recorded", func() bool { return len(s.Faulty.Records()) == 1 })
}

// A fault that a person must mend keeps the configuration from loading.
func TestBrokenStoreFailsTheConfig(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s := newStartingSite(t, func(context.Context) error { return errors.New("it is damaged: restore it") })
	caddytest.WantError(t, s.start(caddytest.Guard(b, "")), "it is damaged: restore it")
	s.Faulty.SetOpenFault(nil)
	if err := s.start(caddytest.Guard(b, "")); err != nil { // the failed one has let go of the storage
		t.Fatal(err)
	}
	s.Send(t, "1").WantForwarded(t)
}

// A store that takes long to open holds up no other site: Caddy starts without
// it.
func TestSlowOpeningHoldsUpNoOtherSite(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s, open := newWaitingSite(t)
	start := time.Now()
	if err := s.start(caddytest.Guard(b, "")); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("loading took %s", took)
	}
	s.wantOtherSite(t)
	s.Send(t, "1").WantJSON(t, http.StatusServiceUnavailable, caddytest.NoStore)

	open <- errors.New("it is damaged: restore it") // too late to fail the config
	caddytest.Eventually(t, "the log says so", func() bool { return strings.Contains(s.Logged(), "it is damaged: restore it") })
	s.Send(t, "1").WantJSON(t, http.StatusServiceUnavailable, caddytest.NoStore)
	s.wantOtherSite(t)
}

// A reload while the store is being opened joins the opening, and a reload to a
// config without the guard ends it.
func TestReloadWhileTheStoreIsOpening(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	ended := make(chan struct{}, 1)
	s := newStartingSite(t, func(ctx context.Context) error {
		<-ctx.Done()
		ended <- struct{}{}
		return ctx.Err()
	})
	for range 2 {
		if err := s.start(caddytest.Guard(b, "")); err != nil {
			t.Fatal(err)
		}
	}
	s.NoApp = true
	s.MustLoad("respond bare")
	select {
	case <-ended:
	case <-caddytest.Timeout(t).Done():
		t.Error("the opening goes on though nobody needs it")
	}
}
