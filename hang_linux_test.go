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
	disk    *faultfs.FS
	other   string // the plain site's address
}

func newHungSite(t *testing.T) *hungSite {
	t.Helper()
	s := &hungSite{Site: newProcessSite(t), disk: faultfs.Mount(t), other: caddytest.FreeAddr(t)}
	s.Store = filepath.Join(s.disk.Dir, "store")
	s.Admin = caddytest.FreeAddr(t)
	s.process = s.Start(t, s.config(t, newAccountant(t, 0).routes()))
	t.Cleanup(func() { s.disk.Set(faultfs.Faults{}) }) // or the process would not end
	return s
}

func (s *hungSite) config(t *testing.T, routes string) string {
	return s.Caddyfile(routes) + "http://" + s.other + " {\nrespond bare\n}\n"
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
	if took := time.Since(start); err != nil || took > limit+3*time.Second {
		t.Errorf("%s: %v after %v, want an answer within %v", r.URL, err, took, limit)
	} else {
		t.Logf("%s: %d after %v", r.URL, got.Status, took)
	}
	return got
}

// While the disk hangs, the guard answers by on_store_error, known events are
// duplicates, and all else is served; when the disk answers again, all is as
// before.
func TestHungDiskUnderARealServer(t *testing.T) {
	for name, hang := range map[string][]faultfs.Op{
		"syncs":      {faultfs.Fsync},
		"writes":     {faultfs.Write},
		"reads":      {faultfs.Read},
		"statfs":     {faultfs.Statfs},
		"everything": faultfs.All,
	} {
		t.Run(name, func(t *testing.T) {
			s := newHungSite(t)
			s.Send(t, "known").WantForwarded(t)
			s.disk.Set(faultfs.Faults{Hang: hang})
			time.Sleep(300 * time.Millisecond)
			first := s.within(t, 20*time.Second, caddytest.Signed(s.URL("/"), caddytest.Event("first")))
			t.Logf("first new event: %d %s", first.Status, first.Body)
			for i := range 3 {
				got := s.within(t, 10*time.Second, caddytest.Signed(s.URL("/"), caddytest.Event(fmt.Sprint("new", i))))
				t.Logf("new event: %d %s", got.Status, got.Body)
				s.within(t, 0, caddytest.Signed(s.URL("/"), caddytest.Event("known"))).WantDuplicate(t)
			}
			for range 500 {
				caddytest.Do(t, caddytest.Signed("http://"+s.other, nil)).Want(t, 200, "bare")
			}
			s.get(t, 0, "http://"+s.other).Want(t, 200, "bare")
			if got := s.get(t, 6*time.Second, "http://"+s.Admin+adminStatus); got.Status != 200 {
				t.Errorf("the status is %d %s", got.Status, got.Body)
			} else {
				t.Log(got.Body)
			}
			if got := s.get(t, 6*time.Second, "http://"+s.Admin+"/metrics"); !strings.Contains(got.Body, "caddy_instantapi_verify_events_in_flight 0") {
				t.Errorf("the metrics are %d %.300s", got.Status, got.Body)
			}
			s.disk.Set(faultfs.Faults{})
			caddytest.Eventually(t, "new events are taken", func() bool { return s.Send(t, "later").Status == 200 })
			s.Send(t, "later").WantDuplicate(t)
		})
	}
}
