package instantapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
	"github.com/instantapi/caddy-instantapi-verify/store/storetest"
)

// runWithAdmin is run with an admin endpoint, whose URL it returns too.
func runWithAdmin(t *testing.T, routes string) (s *caddytest.Site, admin string) {
	t.Helper()
	s = caddytest.New(t)
	s.Admin = caddytest.FreeAddr(t)
	s.MustLoad(routes)
	return s, "http://" + s.Admin
}

// ask makes a request to the admin API, and decodes the answer into report if
// it is one.
func ask(t *testing.T, method, uri string, report any) (got caddytest.Reply) {
	t.Helper()
	r, err := http.NewRequest(method, uri, nil)
	if err != nil {
		t.Fatal(err)
	}
	got = caddytest.Do(t, r)
	if ct := got.Header.Get("Content-Type"); ct != "application/json" {
		t.Errorf("%s: Content-Type is %q, want application/json", uri, ct)
	}
	if got.Status == http.StatusOK && report != nil {
		if err := json.Unmarshal([]byte(got.Body), report); err != nil {
			t.Errorf("%s: %s: %v", uri, got.Body, err)
		}
	}
	return got
}

// wantRefusal fails the test unless the answer is an error that says this.
func wantRefusal(t *testing.T, got caddytest.Reply, status int, says string) {
	t.Helper()
	var answer struct{ Error string }
	if err := json.Unmarshal([]byte(got.Body), &answer); err != nil || got.Status != status || !strings.Contains(answer.Error, says) {
		t.Errorf("got %d %s, want %d and an error that says %q", got.Status, got.Body, status, says)
	}
}

// which returns the admin API's URL for an event.
func which(admin string, params ...string) string {
	query := url.Values{}
	for _, param := range params {
		name, value, _ := strings.Cut(param, "=")
		query.Add(name, value)
	}
	return admin + adminEvent + "?" + query.Encode()
}

func TestStatusTellsWhatTheStoreHolds(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s, admin := runWithAdmin(t, caddytest.Guard(b, ""))
	for i := range 3 {
		s.Send(t, fmt.Sprint(i)).WantForwarded(t)
	}
	var got statusReport
	ask(t, "GET", admin+adminStatus, &got)
	if got.Store != "badger:"+s.Store || got.Options != "sync on, min_free_space 32 MiB" || got.EventsRemembered == nil || *got.EventsRemembered != 3 ||
		got.Bytes <= 0 || got.FreeBytes == nil || got.MinFreeBytes != 32<<20 || got.LastError != nil || got.EventsInFlight != 0 {
		t.Errorf("got %+v", got)
	}
}

func TestLookupFindsWhatTheHandlerRecorded(t *testing.T) {
	b := caddytest.NewBackend(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(202) })
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
}`, caddytest.Secret, b.Addr(), caddytest.Guard(b, "retention 1h")))
	deliver := func(path, body string) (idempotencyKey string) {
		r := caddytest.Signed(s.URL(path), []byte(body))
		r.Header.Set("Tenant", "acme")
		caddytest.Do(t, r)
		all := b.Deliveries()
		return all[len(all)-1].Header.Get("Idempotency-Key")
	}
	start := time.Now().Truncate(time.Second)
	plain := deliver("/Hook/", `{"event_type":"task.completed","task_id":"task_1 & \"quoted\" \u00e9"}`)
	number := deliver("/hook", `{"event_type":"task.failed","task_id":17}`)
	other := deliver("/hook", `{"event_type":"task.cancelled","task_id":"c"}`)
	own := deliver("/own", `{"order":{"n":1},"task_id":"task_1"}`)
	whole := deliver("/hook", `{"no":"fields"}`)

	hook := "url=" + strings.ToUpper(s.URL("/hook"))
	hook = strings.Replace(hook, "HTTP", "http", 1)
	tests := []struct {
		name  string
		which []string
		want  []string // identity, or the state if that is not "delivered"
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
		{"of another place", []string{"url=" + s.URL("/elsewhere"), "field=event_type=task.failed", `field=task_id:=17`}, []string{"unknown"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var report eventsReport
			got := ask(t, "GET", which(admin, test.which...), &report)
			if len(report.Events) != len(test.want) {
				t.Fatalf("got %d %s, want %d events", got.Status, got.Body, len(test.want))
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
			if strings.Contains(got.Body, caddytest.Secret) {
				t.Error("answer has the secret in it")
			}
		})
	}
}

func TestAdminAPIRefuses(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	_, admin := runWithAdmin(t, caddytest.Guard(b, "scope own")+"\n"+caddytest.Guard(b, "scope other\ndedupe_by task_id"))
	tests := []struct {
		method, path string
		which        []string
		status       int
		says         string
	}{
		{"POST", adminStatus, nil, 405, "use GET"},
		{"DELETE", adminStatus, nil, 405, "use GET"},
		{"POST", adminEvent, nil, 405, "use GET or DELETE"},
		{"GET", adminEvent, nil, 400, "give the url that"},
		{"GET", adminEvent, []string{"scope=own", "url=http://x/"}, 400, "give the url that"},
		{"GET", adminEvent, []string{"url=http://x/", "field=task_id=1"}, 400, "give scope instead of url"},
		{"GET", adminEvent, []string{"scope=own"}, 400, "give event_type and task_id, or task_id"},
		{"GET", adminEvent, []string{"scope=own", "field=task=1"}, 400, "give event_type and task_id, or task_id"},
		{"GET", adminEvent, []string{"scope=own", "field=event_type=task.failed"}, 400, "give event_type and task_id, or task_id"},
		{"GET", adminEvent, []string{"scope=own", "field=task_id=1", "field=status=x"}, 400, "give event_type and task_id, or task_id"},
		{"GET", adminEvent, []string{"scope=own", "scope=own", "field=task_id=1"}, 400, "scope is repeated"},
		{"GET", adminEvent, []string{"scope=own", "field=task_id"}, 400, "is not <name>=<text>"},
		{"GET", adminEvent, []string{"scope=own", "field=task_id:=1 2"}, 400, "is not JSON"},
		{"GET", adminEvent, []string{"scope=own", "field=task_id="}, 400, "ask by identity"},
		{"GET", adminEvent, []string{"scope=own", "field=task_id:=null"}, 400, "ask by identity"},
		{"GET", adminEvent, []string{"scope=own", "field=task_id:=\"\\ud83d\""}, 400, "is not JSON"},
		{"GET", adminEvent, []string{"scope=own", "field=task_id=\xff"}, 400, "not UTF-8"},
		{"GET", adminEvent, []string{"scope=own", "field=task_id=1", "field=task_id=2"}, 400, "task_id is repeated"},
		{"GET", adminEvent, []string{"scope=own", "task_id=1"}, 400, `unknown parameter "task_id"`},
		{"GET", adminEvent, []string{"identity=12"}, 400, "32 hex digits"},
		{"GET", adminEvent, []string{"identity=" + strings.Repeat("x", 32)}, 400, "32 hex digits"},
		{"GET", adminEvent, []string{"identity=" + strings.Repeat("0", 32), "scope=own"}, 400, "leave out the other"},
		{"DELETE", adminEvent, []string{"scope=own", "field=task_id=1"}, 400, "this means 3 events"},
		{"DELETE", adminEvent, []string{"scope=own", "field=task_id=1", "field=event_type=x"}, 404, "not known"},
		{"DELETE", adminEvent, []string{"identity=" + strings.Repeat("0", 32)}, 404, "not known"},
	}
	for _, test := range tests {
		t.Run(fmt.Sprint(test.method, test.path, test.which), func(t *testing.T) {
			uri := which(admin, test.which...)
			if test.path == adminStatus {
				uri = admin + adminStatus
			}
			wantRefusal(t, ask(t, test.method, uri, nil), test.status, test.says)
		})
	}
	r, _ := http.NewRequest("GET", admin+adminEvent+"?scope=%zz", nil)
	wantRefusal(t, caddytest.Do(t, r), 400, "invalid URL escape")
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

func TestAdminAPIWhileTheStoreFails(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s := caddytest.New(t)
	s.Admin = caddytest.FreeAddr(t)
	faulty := new(storetest.Faulty)
	s.Faulty = faulty
	s.MustLoad(caddytest.Guard(b, ""))
	admin := "http://" + s.Admin
	one := which(admin, "url="+s.URL("/"), "field=task_id=1", "field=event_type=task.completed")
	onFire := storetest.Always(errors.New("on fire"))

	faulty.SetFaults(nil, onFire)
	s.Send(t, "1").WantForwarded(t)
	var report eventsReport
	ask(t, "GET", one, &report)
	if len(report.Events) != 1 || report.Events[0].State != stateDelivered || !report.Events[0].Unrecorded {
		t.Errorf("got %+v, want a delivery that only this process remembers", report)
	}
	wantRefusal(t, ask(t, "DELETE", one, nil), 503, "on fire")
	s.Send(t, "1").WantDuplicate(t)

	var status statusReport
	ask(t, "GET", admin+adminStatus, &status)
	if status.EventsUnrecorded != 1 || status.LastError == nil || status.LastError.Error != "on fire" || time.Since(status.LastError.At) > time.Minute ||
		status.EventsRemembered != nil || status.FreeBytes != nil {
		t.Errorf("got %+v", status)
	}

	// An event that is forgotten just when the store works again is not
	// recorded late.
	faulty.SetFaults(nil, nil)
	if got := ask(t, "DELETE", one, nil); got.Status != 200 {
		t.Errorf("got %d %s", got.Status, got.Body)
	}
	time.Sleep(1200 * time.Millisecond) // longer than the ledger's pause before it tries a failing store again
	if n := len(faulty.Records()); n != 0 {
		t.Errorf("%d events are recorded, want none", n)
	}
	s.Send(t, "1").WantForwarded(t)

	faulty.SetFaults(onFire, nil)
	wantRefusal(t, ask(t, "GET", which(admin, "url="+s.URL("/"), "field=task_id=2"), nil), 503, "on fire")
	wantRefusal(t, ask(t, "DELETE", one, nil), 503, "on fire")
}
