package instantapi

import (
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
)

func TestForgottenEventIsForwardedOnceMore(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s, admin := runWithAdmin(t, caddytest.Guard(b, ""))
	one := which(admin, "url="+s.URL("/"), "field=task_id=1", "field=event_type=task.completed")
	send := func() caddytest.Reply { t.Helper(); return s.Send(t, "1") }
	send().WantForwarded(t)
	s.Send(t, "2").WantForwarded(t)
	for range 3 {
		var report eventsReport
		ask(t, "DELETE", one, &report)
		if len(report.Events) != 1 || report.Events[0].State != stateForgotten || report.Events[0].BackendStatus != 200 {
			t.Errorf("got %+v", report)
		}
		wantRefusal(t, ask(t, "DELETE", one, nil), 404, "not known")
		send().WantForwarded(t)
		send().WantDuplicate(t)
	}
	b.WantDeliveries(t, 5)
	s.Send(t, "2").WantDuplicate(t)

	// The event is forgotten for good, and the forgetting is not taken for
	// damage.
	ask(t, "DELETE", one, nil)
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	waitForClosedStores(t)
	s.MustLoad(caddytest.Guard(b, ""))
	send().WantForwarded(t)
	s.Send(t, "2").WantDuplicate(t)
}

func TestForgettingAnEventInFlightIsAConflict(t *testing.T) {
	hold, release := make(chan struct{}), make(chan struct{})
	b := caddytest.NewBackend(t, func(w http.ResponseWriter, _ *http.Request) {
		hold <- struct{}{}
		<-release
		io.WriteString(w, "from the backend")
	})
	s, admin := runWithAdmin(t, caddytest.Guard(b, ""))
	one := which(admin, "url="+s.URL("/"), "field=task_id=1", "field=event_type=task.completed")
	answer := make(chan caddytest.Reply)
	start := time.Now().Truncate(time.Second)
	go func() {
		got, err := caddytest.DoWith(caddytest.Sender, caddytest.Signed(s.URL("/"), caddytest.Event("1")))
		if err != nil {
			t.Error(err)
		}
		answer <- got
	}()
	<-hold
	var report eventsReport
	ask(t, "GET", one, &report)
	if len(report.Events) != 1 || report.Events[0].State != stateInFlight || report.Events[0].InFlightSince.Before(start) || report.Events[0].InFlightSince.After(time.Now()) {
		t.Errorf("got %+v", report)
	}
	var status statusReport
	if ask(t, "GET", admin+adminStatus, &status); status.EventsInFlight != 1 {
		t.Errorf("%d events are in flight, want 1", status.EventsInFlight)
	}
	wantRefusal(t, ask(t, "DELETE", one, nil), 409, "is being delivered")
	close(release)
	(<-answer).WantForwarded(t)
	s.Send(t, "1").WantDuplicate(t)
	b.WantDeliveries(t, 1)
}

// Whenever an event is forgotten between its repeats, exactly one more of them
// is forwarded.
func TestForgettingAmongRepeats(t *testing.T) {
	rounds := 50
	if testing.Short() {
		rounds = 10
	}
	b := caddytest.NewBackend(t, nil)
	s, admin := runWithAdmin(t, caddytest.Guard(b, ""))
	one := which(admin, "url="+s.URL("/"), "field=task_id=1", "field=event_type=task.completed")
	stop := make(chan struct{})
	var senders sync.WaitGroup
	for range 4 {
		senders.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if got, err := caddytest.DoWith(caddytest.Sender, caddytest.Signed(s.URL("/"), caddytest.Event("1"))); err != nil || got.Status != 200 {
					t.Errorf("got %d %s %v", got.Status, got.Body, err)
				}
			}
		})
	}
	for forgotten := 0; forgotten < rounds; {
		caddytest.Eventually(t, "event is delivered", func() bool { return len(b.Deliveries()) >= forgotten+1 })
		if got := ask(t, "DELETE", one, nil); got.Status == 200 {
			forgotten++
		} else if got.Status != 409 {
			t.Errorf("got %d %s", got.Status, got.Body)
		}
	}
	caddytest.Eventually(t, "event is delivered", func() bool { return len(b.Deliveries()) >= rounds+1 })
	close(stop)
	senders.Wait()
	b.WantDeliveries(t, rounds+1)
}
