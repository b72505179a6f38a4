package instantapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/instantapi/caddy-instantapi-verify/store"
)

// runWithAdmin is run with an admin endpoint, whose URL it returns too.
func runWithAdmin(t *testing.T, routes string) (s *site, admin string) {
	t.Helper()
	s = newSite(t)
	addr := freeAddr(t)
	if err := s.load(strings.Replace(s.caddyfile(routes), "admin off", "admin "+addr, 1)); err != nil {
		t.Fatal(err)
	}
	return s, "http://" + addr
}

// ask makes a request to the admin API. A report is filled if the answer is one.
func ask(t *testing.T, method, uri string, report any) (got reply) {
	t.Helper()
	r, err := http.NewRequest(method, uri, nil)
	if err != nil {
		t.Fatal(err)
	}
	got = do(t, r)
	if ct := got.header.Get("Content-Type"); ct != "application/json" {
		t.Errorf("%s: Content-Type is %q, want application/json", uri, ct)
	}
	if got.status == http.StatusOK && report != nil {
		if err := json.Unmarshal([]byte(got.body), report); err != nil {
			t.Errorf("%s: %s: %v", uri, got.body, err)
		}
	}
	return got
}

func (got reply) wantError(t *testing.T, status int, says string) {
	t.Helper()
	var answer struct{ Error string }
	if err := json.Unmarshal([]byte(got.body), &answer); err != nil || got.status != status || !strings.Contains(answer.Error, says) {
		t.Errorf("got %d %s, want %d and an error that says %q", got.status, got.body, status, says)
	}
}

// which is the admin API's URL for an event.
func which(admin string, params ...string) string {
	query := url.Values{}
	for _, param := range params {
		name, value, _ := strings.Cut(param, "=")
		query.Add(name, value)
	}
	return admin + adminEvent + "?" + query.Encode()
}

func TestStatusTellsWhatTheStoreHolds(t *testing.T) {
	b := newBackend(t, nil)
	s, admin := runWithAdmin(t, guard(b, ""))
	for i := range 3 {
		do(t, signed(s.url("/"), taskEvent(fmt.Sprint(i)))).wantForwarded(t)
	}
	var got statusReport
	ask(t, "GET", admin+adminStatus, &got)
	if got.Store != "badger:"+s.store || got.Options != "sync on, min_free_space 32 MiB" || got.EventsRemembered == nil || *got.EventsRemembered != 3 ||
		got.Bytes <= 0 || got.FreeBytes == nil || got.MinFreeBytes != 32<<20 || got.LastError != nil || got.EventsInFlight != 0 {
		t.Errorf("got %+v", got)
	}
}

func TestLookupFindsWhatTheHandlerRecorded(t *testing.T) {
	b := newBackend(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(202) })
	s, admin := runWithAdmin(t, fmt.Sprintf(`
handle /own* {
	instantapi_verify %[1]s {
		scope {http.request.header.Tenant}-orders
		dedupe_by order task_id
		retention forever
	}
	reverse_proxy %[2]s
}
handle {
	%[3]s
}`, testSecret, b.addr(), guard(b, "retention 1h")))
	deliver := func(path, body string) (idempotencyKey string) {
		r := signed(s.url(path), []byte(body))
		r.Header.Set("Tenant", "acme")
		do(t, r)
		all := b.deliveries()
		return all[len(all)-1].Header.Get("Idempotency-Key")
	}
	start := time.Now().Truncate(time.Second)
	plain := deliver("/Hook/", `{"event_type":"task.completed","task_id":"task_1 & \"quoted\" \u00e9"}`)
	number := deliver("/hook", `{"event_type":"task.failed","task_id":17}`)
	other := deliver("/hook", `{"event_type":"task.cancelled","task_id":"c"}`)
	own := deliver("/own", `{"order":{"n":1},"task_id":"task_1"}`)
	whole := deliver("/hook", `{"no":"fields"}`)

	hook := "url=" + strings.ToUpper(s.url("/hook"))
	hook = strings.Replace(hook, "HTTP", "http", 1)
	tests := []struct {
		name  string
		which []string
		want  []string // identity, or state where it is another
	}{
		{"by fields", []string{hook, "field=event_type=task.completed", `field=task_id=task_1 & "quoted" é`}, []string{plain}},
		{"in any order", []string{`field=task_id=task_1 & "quoted" é`, "field=event_type=task.completed", hook}, []string{plain}},
		{"as JSON", []string{hook, `field=event_type:="task.completed"`, `field=task_id:="task_1 & \"quoted\" \u00e9"`}, []string{plain}},
		{"by the scope", []string{"scope=127.0.0.1/hook", "field=event_type=task.completed", `field=task_id=task_1 & "quoted" é`}, []string{plain}},
		{"of either type", []string{hook, `field=task_id=task_1 & "quoted" é`}, []string{plain, "unknown"}},
		{"of a number", []string{hook, `field=task_id:=17`}, []string{"unknown", number}},
		{"of a number in quotes", []string{hook, `field=task_id=17`}, []string{"unknown", "unknown"}},
		{"of another type", []string{hook, `field=task_id=c`, "field=event_type=task.cancelled"}, []string{other}},
		{"by other fields", []string{"scope=acme-orders", "field=task_id=task_1", `field=order:={"n":1}`}, []string{own}},
		{"by identity", []string{"identity=" + plain}, []string{plain}},
		{"of the whole body", []string{"identity=" + whole}, []string{whole}},
		{"never heard of", []string{hook, "field=event_type=task.completed", `field=task_id=task_2`}, []string{"unknown"}},
		{"of another place", []string{"url=" + s.url("/elsewhere"), "field=event_type=task.failed", `field=task_id:=17`}, []string{"unknown"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var report eventsReport
			got := ask(t, "GET", which(admin, test.which...), &report)
			if len(report.Events) != len(test.want) {
				t.Fatalf("got %d %s, want %d events", got.status, got.body, len(test.want))
			}
			for i, ev := range report.Events {
				if test.want[i] == stateUnknown {
					if ev.State != stateUnknown || !ev.DeliveredAt.IsZero() {
						t.Errorf("got %+v, want an unknown event", ev)
					}
					continue
				}
				if ev.Identity != test.want[i] || ev.State != stateDelivered || ev.BackendStatus != 202 || ev.Unrecorded ||
					ev.DeliveredAt.Before(start) || ev.DeliveredAt.After(time.Now()) {
					t.Errorf("got %+v, want the delivery %s", ev, test.want[i])
				}
				if lasts := ev.ExpiresAt.Sub(ev.DeliveredAt); ev.Identity == own && !ev.ExpiresAt.IsZero() || ev.Identity != own && (lasts < time.Hour || lasts > time.Hour+time.Second) {
					t.Errorf("it expires at %s", ev.ExpiresAt)
				}
			}
			if strings.Contains(got.body, testSecret) {
				t.Error("answer has the secret in it")
			}
		})
	}
}

func TestAdminAPIRefuses(t *testing.T) {
	b := newBackend(t, nil)
	_, admin := runWithAdmin(t, guard(b, "scope own")+"\n"+guard(b, "scope other\ndedupe_by task_id"))
	tests := []struct {
		method, path string
		which        []string
		status       int
		says         string
	}{
		{"POST", adminStatus, nil, 405, "use GET"},
		{"DELETE", adminStatus, nil, 405, "use GET"},
		{"POST", adminEvent, nil, 405, "use GET or DELETE"},
		{"GET", adminEvent, nil, 400, "give either the url"},
		{"GET", adminEvent, []string{"scope=own", "url=http://x/"}, 400, "give either the url"},
		{"GET", adminEvent, []string{"url=http://x/", "field=task_id=1"}, 400, "give scope instead of url"},
		{"GET", adminEvent, []string{"scope=own"}, 400, "give event_type and task_id, or task_id"},
		{"GET", adminEvent, []string{"scope=own", "field=task=1"}, 400, "give event_type and task_id, or task_id"},
		{"GET", adminEvent, []string{"scope=own", "field=event_type=task.failed"}, 400, "give event_type and task_id, or task_id"},
		{"GET", adminEvent, []string{"scope=own", "field=task_id=1", "field=status=x"}, 400, "give event_type and task_id, or task_id"},
		{"GET", adminEvent, []string{"scope=own", "scope=own", "field=task_id=1"}, 400, "scope is there twice"},
		{"GET", adminEvent, []string{"scope=own", "field=task_id"}, 400, "is not <name>=<text>"},
		{"GET", adminEvent, []string{"scope=own", "field=task_id:=1 2"}, 400, "is not JSON"},
		{"GET", adminEvent, []string{"scope=own", "field=task_id="}, 400, "ask by identity"},
		{"GET", adminEvent, []string{"scope=own", "field=task_id:=null"}, 400, "ask by identity"},
		{"GET", adminEvent, []string{"scope=own", "field=task_id:=\"\\ud83d\""}, 400, "is not JSON"},
		{"GET", adminEvent, []string{"scope=own", "field=task_id=\xff"}, 400, "not UTF-8"},
		{"GET", adminEvent, []string{"scope=own", "field=task_id=1", "field=task_id=2"}, 400, "task_id is there twice"},
		{"GET", adminEvent, []string{"scope=own", "task_id=1"}, 400, `unknown parameter "task_id"`},
		{"GET", adminEvent, []string{"identity=12"}, 400, "32 hex digits"},
		{"GET", adminEvent, []string{"identity=" + strings.Repeat("x", 32)}, 400, "32 hex digits"},
		{"GET", adminEvent, []string{"identity=" + strings.Repeat("0", 32), "scope=own"}, 400, "leave out the other"},
		{"DELETE", adminEvent, []string{"scope=own", "field=task_id=1"}, 400, "3 events are meant"},
		{"DELETE", adminEvent, []string{"scope=own", "field=task_id=1", "field=event_type=x"}, 404, "not known"},
		{"DELETE", adminEvent, []string{"identity=" + strings.Repeat("0", 32)}, 404, "not known"},
	}
	for _, test := range tests {
		t.Run(fmt.Sprint(test.method, test.path, test.which), func(t *testing.T) {
			uri := which(admin, test.which...)
			if test.path == adminStatus {
				uri = admin + adminStatus
			}
			ask(t, test.method, uri, nil).wantError(t, test.status, test.says)
		})
	}
	r, _ := http.NewRequest("GET", admin+adminEvent+"?scope=%zz", nil)
	do(t, r).wantError(t, 400, "invalid URL escape")
}

func TestURLMustBeOne(t *testing.T) {
	for _, s := range []string{"", "example.com/hook", "/hook", "ftp://example.com/", "https://", "http://[::1/"} {
		if scope, err := scopeOfURL(s); err == nil {
			t.Errorf("scope of %q is %q", s, scope)
		}
	}
	for s, want := range map[string]string{
		"https://Example.com":             "example.com",
		"https://example.com./":           "example.com",
		"https://example.com:8443/a//b/?": "example.com/a/b",
		"http://x/a%20b/../c":             "x/c",
		"http://[::1]:80/a":               "::1/a",
		"http://[::1]/a":                  "::1/a",
	} {
		if got, err := scopeOfURL(s); err != nil || got != want {
			t.Errorf("scope of %s is %q %v, want %q", s, got, err, want)
		}
	}
}

func TestForgottenEventIsForwardedOnceMore(t *testing.T) {
	b := newBackend(t, nil)
	s, admin := runWithAdmin(t, guard(b, ""))
	one := which(admin, "url="+s.url("/"), "field=task_id=1", "field=event_type=task.completed")
	send := func() reply { t.Helper(); return do(t, signed(s.url("/"), taskEvent("1"))) }
	send().wantForwarded(t)
	do(t, signed(s.url("/"), taskEvent("2"))).wantForwarded(t)
	for range 3 {
		var report eventsReport
		ask(t, "DELETE", one, &report)
		if len(report.Events) != 1 || report.Events[0].State != stateForgotten || report.Events[0].BackendStatus != 200 {
			t.Errorf("got %+v", report)
		}
		ask(t, "DELETE", one, nil).wantError(t, 404, "not known")
		send().wantForwarded(t)
		send().wantJSON(t, 200, bodyDuplicate)
	}
	b.wantDeliveries(t, 5)
	do(t, signed(s.url("/"), taskEvent("2"))).wantJSON(t, 200, bodyDuplicate)

	// It is forgotten for good, and nothing takes it for damage.
	ask(t, "DELETE", one, nil)
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	waitForClosedStores(t)
	s.mustLoad(guard(b, ""))
	send().wantForwarded(t)
	do(t, signed(s.url("/"), taskEvent("2"))).wantJSON(t, 200, bodyDuplicate)
}

func TestForgettingAnEventInFlightIsAConflict(t *testing.T) {
	hold, release := make(chan struct{}), make(chan struct{})
	b := newBackend(t, func(w http.ResponseWriter, _ *http.Request) {
		hold <- struct{}{}
		<-release
		io.WriteString(w, "from the backend")
	})
	s, admin := runWithAdmin(t, guard(b, ""))
	one := which(admin, "url="+s.url("/"), "field=task_id=1", "field=event_type=task.completed")
	answer := make(chan reply)
	start := time.Now().Truncate(time.Second)
	go func() {
		got, err := doWith(sender, signed(s.url("/"), taskEvent("1")))
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
	ask(t, "DELETE", one, nil).wantError(t, 409, "is being delivered")
	close(release)
	(<-answer).wantForwarded(t)
	do(t, signed(s.url("/"), taskEvent("1"))).wantJSON(t, 200, bodyDuplicate)
	b.wantDeliveries(t, 1)
}

// However a forgetting falls among the repeats of an event, exactly one more of
// them is forwarded.
func TestForgettingAmongRepeats(t *testing.T) {
	rounds := 50
	if testing.Short() {
		rounds = 10
	}
	b := newBackend(t, nil)
	s, admin := runWithAdmin(t, guard(b, ""))
	one := which(admin, "url="+s.url("/"), "field=task_id=1", "field=event_type=task.completed")
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
				if got, err := doWith(sender, signed(s.url("/"), taskEvent("1"))); err != nil || got.status != 200 {
					t.Errorf("got %d %s %v", got.status, got.body, err)
				}
			}
		})
	}
	for forgotten := 0; forgotten < rounds; {
		eventually(t, "event is delivered", func() bool { return len(b.deliveries()) >= forgotten+1 })
		if got := ask(t, "DELETE", one, nil); got.status == 200 {
			forgotten++
		} else if got.status != 409 {
			t.Errorf("got %d %s", got.status, got.body)
		}
	}
	eventually(t, "event is delivered", func() bool { return len(b.deliveries()) >= rounds+1 })
	close(stop)
	senders.Wait()
	b.wantDeliveries(t, rounds+1)
}

func TestAdminAPIWhileTheStoreFails(t *testing.T) {
	b := newBackend(t, nil)
	s := newSite(t)
	addr := freeAddr(t)
	faulty := s.loadFaulty(strings.Replace(s.caddyfile(guard(b, "")), "admin off", "admin "+addr, 1))
	admin := "http://" + addr
	one := which(admin, "url="+s.url("/"), "field=task_id=1", "field=event_type=task.completed")
	onFire := func(store.Identity) error { return errors.New("on fire") }

	faulty.set(nil, onFire)
	do(t, signed(s.url("/"), taskEvent("1"))).wantForwarded(t)
	var report eventsReport
	ask(t, "GET", one, &report)
	if len(report.Events) != 1 || report.Events[0].State != stateDelivered || !report.Events[0].Unrecorded {
		t.Errorf("got %+v, want a delivery that only the memory knows", report)
	}
	ask(t, "DELETE", one, nil).wantError(t, 503, "on fire")
	do(t, signed(s.url("/"), taskEvent("1"))).wantJSON(t, 200, bodyDuplicate)

	var status statusReport
	ask(t, "GET", admin+adminStatus, &status)
	if status.EventsUnrecorded != 1 || status.LastError == nil || status.LastError.Error != "on fire" || time.Since(status.LastError.At) > time.Minute ||
		status.EventsRemembered != nil || status.FreeBytes != nil {
		t.Errorf("got %+v", status)
	}

	// Forgotten just when the store works again, it is not recorded late.
	faulty.set(nil, nil)
	if got := ask(t, "DELETE", one, nil); got.status != 200 {
		t.Errorf("got %d %s", got.status, got.body)
	}
	time.Sleep(1200 * time.Millisecond) // longer than the ledger leaves a failing store alone
	if n := faulty.size(); n != 0 {
		t.Errorf("%d events are recorded, want none", n)
	}
	do(t, signed(s.url("/"), taskEvent("1"))).wantForwarded(t)

	faulty.set(onFire, nil)
	ask(t, "GET", which(admin, "url="+s.url("/"), "field=task_id=2"), nil).wantError(t, 503, "on fire")
	ask(t, "DELETE", one, nil).wantError(t, 503, "on fire")
}

func TestAdminAPIFollowsTheConfigInForce(t *testing.T) {
	b := newBackend(t, nil)
	s, admin := runWithAdmin(t, guard(b, ""))
	do(t, signed(s.url("/"), taskEvent("1"))).wantForwarded(t)
	addr := strings.TrimPrefix(admin, "http://")
	config := func(routes string) string {
		return strings.Replace(s.caddyfile(routes), "admin off", "admin "+addr, 1)
	}
	task := func() reply { return ask(t, "GET", which(admin, "url="+s.url("/"), "field=task_id=1"), nil) }

	// one that is refused, after its store has been opened or before
	for range 5 {
		if err := s.load(strings.Replace(config(guard(b, "dedupe_by task_id")), "32MiB", "34MiB", 1)); err == nil {
			t.Error("a config with other store options loads")
		}
		if err := s.load(config(guard(b, "dedupe_by task_id")) + "http://" + b.addr() + " {\nrespond taken\n}\n"); err == nil {
			t.Error("a config for a port that is taken loads")
		}
	}
	if got := task(); got.status != 200 || strings.Count(got.body, `"identity"`) != 2 {
		t.Errorf("after refused configs: got %d %s", got.status, got.body)
	}
	// one that tells events by another field
	if err := s.load(config(guard(b, "dedupe_by task_id"))); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new config answers", func() bool { return strings.Count(task().body, `"identity"`) == 1 })
	// one whose store nobody uses
	if err := s.load(config(guard(b, "verify_only"))); err != nil {
		t.Fatal(err)
	}
	task().wantError(t, 400, "ask by identity")
	if got := ask(t, "GET", which(admin, "identity="+strings.Repeat("0", 32)), nil); got.status != 200 {
		t.Errorf("by identity: got %d %s", got.status, got.body)
	}
	// one without a store
	bare := config(guard(b, "verify_only"))
	bare = bare[:strings.Index(bare, "\tinstantapi_verify {\n\t\tstore")] + "}\n" + bare[strings.Index(bare, "http://"):]
	if err := s.load(bare); err != nil {
		t.Fatal(err)
	}
	ask(t, "GET", admin+adminStatus, nil).wantError(t, 404, "no store is open")
	task().wantError(t, 404, "no store is open")
}

// Questions do not disturb a reload, nor the other way round.
func TestAdminAPIWhileReloading(t *testing.T) {
	b := newBackend(t, nil)
	s, admin := runWithAdmin(t, guard(b, ""))
	addr := strings.TrimPrefix(admin, "http://")
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
				for _, uri := range []string{admin + adminStatus, admin + "/metrics", which(admin, "url="+s.url("/"), "field=task_id=1")} {
					r, _ := http.NewRequest("GET", uri, nil)
					got, err := doWith(sender, r)
					if err == nil && got.status != 200 && !strings.Contains(got.body, "no store is open") {
						t.Errorf("%s: got %d %s", uri, got.status, got.body)
					}
				}
			}
		})
	}
	for i := range 10 {
		if err := s.load(strings.Replace(s.caddyfile(guard(b, fmt.Sprintf("retention %dh", i+1))), "admin off", "admin "+addr, 1)); err != nil {
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
