package caddytest

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard" // what a Caddyfile may name
	"github.com/instantapi/caddy-instantapi-verify/store/storetest"
)

// Site is a Caddy with one server, like a user's. Its fields may be changed
// before [Site.Caddyfile] is called.
type Site struct {
	Addr  string // where the server listens
	Store string // the directory of the store
	Log   string // the file that Caddy logs to, as JSON

	Level        string // of the log; default: DEBUG
	Admin        string // address of the admin endpoint; default: off
	Servers      string // content of the block `servers`
	StoreOptions string // content of the store's block, without the path
	NoApp        bool   // leave out the global option instantapi_verify

	// Faulty replaces the store in the directory.
	Faulty *storetest.Faulty

	t       testing.TB
	running bool // in this process
}

// New returns a site that is not running yet.
func New(t testing.TB) *Site {
	t.Helper()
	beforeSite()
	dir := t.TempDir()
	return &Site{
		Addr:         FreeAddr(t),
		Store:        filepath.Join(dir, "store"),
		Log:          filepath.Join(dir, "log.json"),
		Level:        "DEBUG",
		Admin:        "off",
		StoreOptions: "min_free_space 32MiB", // the least: test machines are small
		t:            t,
	}
}

// beforeSite calls the hook, for one of several tests that run at once after the
// other.
func beforeSite() {
	if hooks.BeforeSite == nil {
		return
	}
	beforeSiteMu.Lock()
	defer beforeSiteMu.Unlock()
	hooks.BeforeSite()
}

var beforeSiteMu sync.Mutex

// Run returns a site that runs in this process, with these routes.
func Run(t testing.TB, routes string) *Site {
	t.Helper()
	s := New(t)
	s.MustLoad(routes)
	return s
}

// RunFaulty is [Run] with a store whose faults the test sets.
func RunFaulty(t testing.TB, routes string) (*Site, *storetest.Faulty) {
	t.Helper()
	s := New(t)
	s.Faulty = new(storetest.Faulty)
	s.MustLoad(routes)
	return s, s.Faulty
}

// Guard returns the usual routes: the guard with these options, and a proxy.
func Guard(b *Backend, options string) string {
	return fmt.Sprintf("instantapi_verify %s {\n%s\n}\nreverse_proxy %s", Secret, options, b.Addr())
}

// Caddyfile returns a whole Caddyfile with these routes in the site's block.
func (s *Site) Caddyfile(routes string) string {
	return s.Global() + "http://" + s.Addr + " {\n" + routes + "\n}\n"
}

// Global returns the Caddyfile's block of global options.
func (s *Site) Global() string {
	return fmt.Sprintf(`{
	admin %s
	skip_install_trust
	persist_config off
	log {
		output file %s
		format json
		level %s
	}
	servers {
		%s
	}
	%s
}
`, s.Admin, Quote(s.Log), s.Level, s.Servers, s.app())
}

// app returns the global option instantapi_verify.
func (s *Site) app() string {
	switch {
	case s.NoApp:
		return ""
	case s.Faulty != nil:
		return "instantapi_verify {\n" + s.Faulty.Caddyfile() + "\n}"
	}
	return fmt.Sprintf(`instantapi_verify {
		store badger {
			path %s
			%s
		}
	}`, Quote(s.Store), s.StoreOptions)
}

// Quote makes one token of a text without backquotes, for a Caddyfile.
func Quote(s string) string { return "`" + s + "`" }

// Adapt returns the JSON of a Caddyfile.
func Adapt(caddyfile string) ([]byte, error) {
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), map[string]any{"filename": "Caddyfile"})
	return config, err
}

// Load makes Caddy run a Caddyfile in this process, as `caddy run` and `caddy
// reload` do. Caddy is stopped when the test ends.
func (s *Site) Load(caddyfile string) error {
	s.t.Helper()
	config, err := Adapt(caddyfile)
	if err != nil {
		return err
	}
	if !s.running {
		s.running = true
		s.t.Cleanup(s.Stop)
	}
	return caddy.Load(config, true)
}

// MustLoad makes Caddy run the site's Caddyfile with these routes.
func (s *Site) MustLoad(routes string) {
	s.t.Helper()
	if err := s.Load(s.Caddyfile(routes)); err != nil {
		s.t.Fatal(err)
	}
}

// Stop ends what [Site.Load] has started, and waits for the end.
func (s *Site) Stop() {
	s.t.Helper()
	if err := caddy.Stop(); err != nil {
		s.t.Error(err)
	}
	if hooks.AfterStop != nil {
		hooks.AfterStop(s.t)
	}
}

// URL returns the address of a path.
func (s *Site) URL(path string) string { return "http://" + s.Addr + path }

// Send sends the event of a completed task to the path /.
func (s *Site) Send(t testing.TB, taskID string) Reply {
	t.Helper()
	return s.Post(t, "/", Event(taskID))
}

// Post sends a signed body.
func (s *Site) Post(t testing.TB, path string, body []byte) Reply {
	t.Helper()
	return Do(t, Signed(s.URL(path), body))
}

// PostUnsigned sends a body without a signature.
func (s *Site) PostUnsigned(t testing.TB, path string, body []byte) Reply {
	t.Helper()
	return Do(t, Unsigned(http.MethodPost, s.URL(path), body))
}

// Logged returns what Caddy has logged so far.
func (s *Site) Logged() string {
	s.t.Helper()
	b, err := os.ReadFile(s.Log)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(b)
}
