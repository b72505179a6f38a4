package instantapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/store"
)

// startingSite is a site beside a plain one, with a store whose opening a test
// decides.
type startingSite struct {
	*site
	faulty *faultyStore
	other  string // the plain site's address
}

func newStartingSite(t *testing.T) *startingSite {
	t.Helper()
	return &startingSite{newSite(t), new(faultyStore), freeAddr(t)}
}

func (s *startingSite) start(routes string) error {
	s.t.Helper()
	return s.loadWith(s.faulty, s.caddyfile(routes)+"http://"+s.other+" {\nrespond bare\n}\n")
}

func (s *startingSite) openWith(open func(context.Context) error) {
	s.faulty.mu.Lock()
	defer s.faulty.mu.Unlock()
	s.faulty.open = open
}

func (s *startingSite) wantOtherSite() {
	s.t.Helper()
	if got := do(s.t, signed("http://"+s.other, nil)); got.status != 200 || got.body != "bare" {
		s.t.Errorf("the other site answers %d %s", got.status, got.body)
	}
}

// unavailable is trouble that can pass by itself.
func unavailable(context.Context) error { return fmt.Errorf("disk is full: %w", store.ErrUnavailable) }

// Trouble that can pass by itself keeps no other site down, and the guard takes
// events as soon as it has passed.
func TestUnavailableStoreIsOpenedWhenItCanBe(t *testing.T) {
	b := newBackend(t, nil)
	s := newStartingSite(t)
	s.openWith(unavailable)
	if err := s.start(guard(b, "")); err != nil {
		t.Fatal(err)
	}
	s.wantOtherSite()
	got := do(t, signed(s.url("/"), taskEvent("1")))
	got.wantJSON(t, http.StatusServiceUnavailable, bodyNoStore)
	if got.header.Get("Retry-After") == "" {
		t.Error("there is no Retry-After")
	}
	b.wantDeliveries(t, 0)
	if !strings.Contains(s.logged(), "disk is full") {
		t.Error("the log does not say why the store is not open")
	}

	s.openWith(nil)
	eventually(t, "events are taken", func() bool { return do(t, signed(s.url("/"), taskEvent("1"))).status == 200 })
	do(t, signed(s.url("/"), taskEvent("1"))).wantJSON(t, 200, bodyDuplicate)
	b.wantDeliveries(t, 1)
}

// The status says why the store is not open, and the metrics that it is not.
func TestStatusOfAStoreThatIsNotOpen(t *testing.T) {
	b := newBackend(t, nil)
	s := newStartingSite(t)
	s.openWith(unavailable)
	admin := freeAddr(t)
	config := strings.Replace(s.caddyfile(guard(b, "")), "admin off", "admin "+admin, 1)
	if err := s.loadWith(s.faulty, config); err != nil {
		t.Fatal(err)
	}
	var report statusReport
	ask(t, "GET", "http://"+admin+adminStatus, &report)
	if !strings.Contains(report.NotOpen, "disk is full") || report.LastError == nil {
		t.Errorf("got %+v", report)
	}
	metrics := func() string {
		r, err := http.NewRequest(http.MethodGet, "http://"+admin+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		return do(t, r).body
	}
	if got := metrics(); !strings.Contains(got, "caddy_instantapi_verify_store_open 0") {
		t.Error("the metrics do not say that the store is not open")
	}
	s.openWith(nil)
	eventually(t, "the metrics say that the store is open", func() bool {
		return strings.Contains(metrics(), "caddy_instantapi_verify_store_open 1")
	})
}

// With on_store_error forward, what was delivered without the store is recorded
// when it opens.
func TestDeliveriesBeforeTheStoreIsOpenAreRecordedLater(t *testing.T) {
	b := newBackend(t, nil)
	s := newStartingSite(t)
	s.openWith(unavailable)
	if err := s.start(guard(b, "on_store_error forward")); err != nil {
		t.Fatal(err)
	}
	do(t, signed(s.url("/"), taskEvent("1"))).wantForwarded(t)
	if got := b.deliveries()[0].Header.Get("X-InstantAPI-Deduplicated"); got != "false" {
		t.Errorf("the delivery is marked %q, want false", got)
	}
	do(t, signed(s.url("/"), taskEvent("1"))).wantJSON(t, 200, bodyDuplicate)
	s.openWith(nil)
	eventually(t, "the delivery is recorded", func() bool { return s.faulty.size() == 1 })
}

// What a person must mend keeps the configuration from loading.
func TestBrokenStoreFailsTheConfig(t *testing.T) {
	b := newBackend(t, nil)
	s := newStartingSite(t)
	s.openWith(func(context.Context) error { return errors.New("it is damaged: restore it") })
	wantError(t, s.start(guard(b, "")), "it is damaged: restore it")
	s.openWith(nil)
	if err := s.start(guard(b, "")); err != nil { // the failed one has let go of the storage
		t.Fatal(err)
	}
	do(t, signed(s.url("/"), taskEvent("1"))).wantForwarded(t)
}

// A store that takes long to open holds up no other site: Caddy starts without
// it.
func TestSlowOpeningHoldsUpNoOtherSite(t *testing.T) {
	b := newBackend(t, nil)
	s := newStartingSite(t)
	open := make(chan error)
	s.openWith(func(ctx context.Context) error {
		select {
		case err := <-open:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	start := time.Now()
	if err := s.start(guard(b, "")); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("loading took %s", took)
	}
	s.wantOtherSite()
	do(t, signed(s.url("/"), taskEvent("1"))).wantJSON(t, http.StatusServiceUnavailable, bodyNoStore)

	open <- errors.New("it is damaged: restore it") // too late to fail the config
	eventually(t, "the log says so", func() bool { return strings.Contains(s.logged(), "it is damaged: restore it") })
	do(t, signed(s.url("/"), taskEvent("1"))).wantJSON(t, http.StatusServiceUnavailable, bodyNoStore)
	s.wantOtherSite()
}

// A reload while the store is being opened joins it, and one to a config without
// the guard ends it.
func TestReloadWhileTheStoreIsOpening(t *testing.T) {
	b := newBackend(t, nil)
	s := newStartingSite(t)
	ended := make(chan struct{}, 1)
	s.openWith(func(ctx context.Context) error {
		<-ctx.Done()
		ended <- struct{}{}
		return ctx.Err()
	})
	for range 2 {
		if err := s.start(guard(b, "")); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.load(s.caddyfile("respond bare")); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-timeout(t).Done():
		t.Error("the opening goes on though nobody needs it")
	}
}
