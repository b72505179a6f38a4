package instantapi

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
	"github.com/instantapi/caddy-instantapi-verify/internal/faultfs"
)

// hungSite is a guarded site in a process of its own, with its store on a file
// system that can hang, beside a plain site.
type hungSite struct {
	*caddytest.Site
	process *caddytest.Process
	backend *accountant
	disk    *faultfs.FS
	other   string // the plain site's address
}

func newHungSite(t *testing.T) *hungSite {
	t.Helper()
	s := &hungSite{Site: newProcessSite(t), backend: newAccountant(t, 0), disk: faultfs.Mount(t), other: caddytest.FreeAddr(t)}
	s.Store = filepath.Join(s.disk.Dir, "store")
	s.Admin = caddytest.FreeAddr(t)
	s.Level = "INFO"
	s.process = s.Start(t, s.config())
	t.Cleanup(func() { s.disk.Set(faultfs.Faults{}) }) // or the process would not end
	return s
}

func (s *hungSite) config() string { return s.withOther(s.Caddyfile(s.backend.routes())) }

// configWith has other options of the guard.
func (s *hungSite) configWith(options string) string {
	routes := strings.Replace(s.backend.routes(), "\n", " {\n"+options+"\n}\n", 1)
	return s.withOther(s.Caddyfile(routes))
}

func (s *hungSite) withOther(config string) string {
	return config + "http://" + s.other + " {\nrespond bare\n}\n"
}

// get asks for a page and wants the answer within a limit.
func (s *hungSite) get(t *testing.T, limit time.Duration, url string) caddytest.Reply {
	t.Helper()
	return s.within(t, limit, caddytest.Unsigned(http.MethodGet, url, nil))
}

func (s *hungSite) within(t *testing.T, limit time.Duration, r *http.Request) caddytest.Reply {
	t.Helper()
	start := time.Now()
	client := &http.Client{Timeout: limit + 30*time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	got, err := caddytest.DoWith(client, r)
	if took := time.Since(start); err != nil || took > limit+3*time.Second { // the machine may be busy
		t.Errorf("%s: %v after %v, want an answer within %v", r.URL, err, took, limit)
	} else {
		t.Logf("%s: %d after %v", r.URL, got.Status, took)
	}
	return got
}

// wantAllElseServed checks that everything that needs no disk is answered, and
// so are the status and the metrics.
func (s *hungSite) wantAllElseServed(t *testing.T) {
	t.Helper()
	for range 200 { // and garbage is collected
		caddytest.Do(t, caddytest.Signed("http://"+s.other, nil)).Want(t, 200, "bare")
	}
	s.get(t, 0, "http://"+s.Admin+"/debug/pprof/heap?gc=1")
	if got := s.get(t, 6*time.Second, "http://"+s.Admin+adminStatus); got.Status != 200 {
		t.Errorf("the status is %d %s", got.Status, got.Body)
	}
	if got := s.get(t, 6*time.Second, "http://"+s.Admin+"/metrics"); !strings.Contains(got.Body, "caddy_instantapi_verify_events_in_flight 0") {
		t.Errorf("the metrics are %d %.300s", got.Status, got.Body)
	}
}

// wantBounded asks all else that needs the store, and wants an answer in time.
func (s *hungSite) wantBounded(t *testing.T) {
	t.Helper()
	event := which("http://"+s.Admin, "identity="+strings.Repeat("0", 32))
	backup := fmt.Sprintf(`{"directory": %q}`, filepath.Join(t.TempDir(), "backup"))
	for name, r := range map[string]*http.Request{
		"lookup": caddytest.Unsigned(http.MethodGet, event, nil),
		"forget": caddytest.Unsigned(http.MethodDelete, event, nil),
		"backup": caddytest.Unsigned(http.MethodPost, "http://"+s.Admin+adminBackup, []byte(backup)),
	} {
		// What can be read can be copied.
		if got := s.within(t, 10*time.Second, r); got.Status/100 == 2 && name == "forget" {
			t.Errorf("%s: got %d %s", name, got.Status, got.Body)
		}
	}
}

// While the disk hangs, on_store_error decides what happens to new events,
// known events are duplicates, and everything else is served; when the disk
// answers again, all is as before.
func TestHungDiskUnderARealServer(t *testing.T) {
	for name, test := range map[string]struct {
		hang  []faultfs.Op
		first time.Duration // until the first event is answered
	}{
		"syncs":      {[]faultfs.Op{faultfs.Fsync}, 10 * time.Second}, // it has been delivered
		"writes":     {[]faultfs.Op{faultfs.Write}, 10 * time.Second},
		"statfs":     {[]faultfs.Op{faultfs.Statfs}, 5 * time.Second},
		"everything": {faultfs.All, 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			s := newHungSite(t)
			s.Send(t, "known").WantForwarded(t)
			s.disk.Set(faultfs.Faults{Hang: test.hang})
			time.Sleep(1500 * time.Millisecond) // the store looks at its disk once a second
			s.within(t, test.first, caddytest.Signed(s.URL("/"), caddytest.Event("first")))
			for i := range 3 {
				s.within(t, 0, caddytest.Signed(s.URL("/"), caddytest.Event(fmt.Sprint("new", i)))).WantJSON(t, 503, caddytest.NoStore)
				s.within(t, 0, caddytest.Signed(s.URL("/"), caddytest.Event("known"))).WantDuplicate(t)
			}
			s.wantAllElseServed(t)
			s.wantBounded(t)
			s.disk.Set(faultfs.Faults{})
			caddytest.Eventually(t, "new events are taken", func() bool { return s.Send(t, "later").Status == 200 })
			s.Send(t, "later").WantDuplicate(t)
		})
	}
}

// Tables that are not in memory are not read while the disk hangs: a goroutine
// that waits for a page would stop the whole process.
func TestHungDiskWithTablesOutOfMemory(t *testing.T) {
	s := newHungSite(t)
	s.Send(t, "known").WantForwarded(t)
	if !s.process.Stop(t) { // which writes a table
		t.Skip("a process can't be asked to stop here")
	}
	s.process = s.Start(t, s.config())
	s.Send(t, "known").WantDuplicate(t)
	s.disk.DropCaches()
	s.disk.Set(faultfs.Faults{Hang: []faultfs.Op{faultfs.Read}})
	time.Sleep(1500 * time.Millisecond)
	s.within(t, 5*time.Second, caddytest.Signed(s.URL("/"), caddytest.Event("known"))).WantJSON(t, 503, caddytest.NoStore)
	s.within(t, 0, caddytest.Signed(s.URL("/"), caddytest.Event("known"))).WantJSON(t, 503, caddytest.NoStore)
	s.within(t, 0, caddytest.Signed(s.URL("/"), caddytest.Event("new"))).WantJSON(t, 503, caddytest.NoStore)
	s.wantAllElseServed(t)
	s.disk.Set(faultfs.Faults{})
	caddytest.Eventually(t, "the known event is known", func() bool { return s.Send(t, "known").Body == caddytest.Duplicate })
	s.Send(t, "new").WantForwarded(t)
}
