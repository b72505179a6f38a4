package instantapi

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
	"github.com/instantapi/caddy-instantapi-verify/store"
	"github.com/instantapi/caddy-instantapi-verify/store/storetest"
)

// These tests are about events while the store fails.

func TestStoreFailsBeforeTheDelivery(t *testing.T) {
	broken := storetest.Always(errors.New("disk on fire"))
	t.Run("reject", func(t *testing.T) {
		b := caddytest.NewBackend(t, nil)
		s, faulty := caddytest.RunFaulty(t, caddytest.Guard(b, ""))
		faulty.SetFaults(broken, nil)
		got := s.Send(t, "1")
		got.WantJSON(t, 503, caddytest.NoStore)
		if got.Header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
		b.WantDeliveries(t, 0)
		faulty.SetFaults(nil, nil)
		s.Send(t, "1").WantForwarded(t)
	})
	t.Run("forward", func(t *testing.T) {
		b := caddytest.NewBackend(t, nil)
		s, faulty := caddytest.RunFaulty(t, caddytest.Guard(b, "on_store_error forward"))
		faulty.SetFaults(broken, broken)
		r := caddytest.Signed(s.URL("/"), caddytest.Event("1"))
		r.Header.Set("X-InstantAPI-Deduplicated", "true")
		caddytest.Do(t, r).WantForwarded(t)
		if mark := b.Deliveries()[0].Header.Values("X-InstantAPI-Deduplicated"); len(mark) != 1 || mark[0] != "false" {
			t.Errorf("X-InstantAPI-Deduplicated is %q, want false", mark)
		}
		// this process remembers the event all the same
		s.Send(t, "1").WantDuplicate(t)
		b.WantDeliveries(t, 1)
	})
}

func TestStoreFailsAfterTheDelivery(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s, faulty := caddytest.RunFaulty(t, caddytest.Guard(b, ""))
	faulty.SetFaults(nil, storetest.Always(errors.New("disk on fire")))
	s.Send(t, "1").WantForwarded(t)
	s.Send(t, "1").WantDuplicate(t)
	b.WantDeliveries(t, 1)
	if log := s.Logged(); !strings.Contains(log, "could not be recorded") || !strings.Contains(log, "disk on fire") {
		t.Error("failure is not logged")
	}
	// The store is not given more to refuse.
	s.Send(t, "2").WantJSON(t, 503, caddytest.NoStore)
	b.WantDeliveries(t, 1)
	faulty.SetFaults(nil, nil)
	caddytest.Eventually(t, "delivery is recorded late", func() bool { return len(faulty.Records()) == 1 })
	caddytest.Eventually(t, "new events are taken again", func() bool { return s.Send(t, "2").Status == 200 })
	s.Send(t, "1").WantDuplicate(t)
	b.WantDeliveries(t, 2)
}

// A store that hangs as long as its contract allows keeps no sender from
// getting an answer.
func TestStoreFailsByHanging(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s, faulty := caddytest.RunFaulty(t, caddytest.Guard(b, ""))
	faulty.SetFaults(nil, func(context.Context, store.Identity) error {
		time.Sleep(time.Second)
		return errors.New("the disk does not answer")
	})
	s.Send(t, "1").WantForwarded(t)
	s.Send(t, "1").WantDuplicate(t)
	s.Send(t, "2").WantJSON(t, 503, caddytest.NoStore)
	faulty.SetFaults(nil, nil)
	caddytest.Eventually(t, "new events are taken again", func() bool { return s.Send(t, "2").Status == 200 })
	b.WantDeliveries(t, 2)
}

func TestDeliveriesOutliveARestart(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s := caddytest.Run(t, caddytest.Guard(b, ""))
	s.Send(t, "1").WantForwarded(t)
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	waitForClosedStores(t)
	s.MustLoad(caddytest.Guard(b, ""))
	s.Send(t, "1").WantDuplicate(t)
	b.WantDeliveries(t, 1)
}
