package docs_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
)

// TestScopesOfTheDocs checks that the configs below the heading "scope" do what
// the page says: all spellings of an endpoint are one scope, and each tenant
// has its own.
func TestScopesOfTheDocs(t *testing.T) {
	_, section, found := strings.Cut(caddytest.ReadFile(t, "options.md"), "\n## `scope`\n")
	if !found {
		t.Fatal("options.md has no heading for scope")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	configs := caddyfiles(section)
	tests := []struct {
		name     string
		hosts    []string
		paths    []string   // the same endpoint
		others   [][]string // endpoints of their own
		refusals []string
	}{
		{name: "a site without a name", hosts: []string{"a.example", "b.example"}, paths: []string{"/"}},
		{name: "several names", hosts: []string{"example.com", "www.example.com", "WWW.example.com"}, paths: []string{"/"}},
		{name: "a path with a wildcard", hosts: []string{"example.com"}, paths: []string{"/hook", "/hook.json", "/hook;a=1", "/hook%20", "//hook/", "/HOOK"}},
		{
			name: "tenants in the query", hosts: []string{"example.com"},
			paths:    []string{"/hook?tenant=acme", "/hook?tenant=acme&x=1", "/hook?tenant=%61cme"},
			others:   [][]string{{"/hook?tenant=globex", "/hook?tenant=globex&x=1"}},
			refusals: []string{"/hook", "/hook?tenant=", "/hook?tenant=Acme", "/hook?tenant=acme&tenant=globex", "/hook?tenant=invented"},
		},
	}
	if len(configs) != len(tests) {
		t.Fatalf("the section has %d configs, want %d", len(configs), len(tests))
	}
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			backend := caddytest.NewBackend(t, nil)
			addr := serve(t, configs[i], backend)
			want := 0
			for _, endpoint := range append([][]string{test.paths}, test.others...) {
				for n, target := range targets(test.hosts, endpoint) {
					got := send(t, addr, target)
					if n == 0 {
						want++
						got.WantForwarded(t)
					} else if got.Body != caddytest.Duplicate {
						t.Errorf("%s: got %d %s, want a duplicate", target, got.Status, got.Body)
					}
				}
			}
			for _, path := range test.refusals {
				send(t, addr, target{test.hosts[0], path}).Want(t, http.StatusNotFound, "")
			}
			backend.WantDeliveries(t, want)
		})
	}
}

// target is where an event is sent, as the request says.
type target struct{ host, path string }

func targets(hosts, paths []string) (all []target) {
	for _, host := range hosts {
		for _, path := range paths {
			all = append(all, target{host, path})
		}
	}
	return all
}

// serve runs a config of the docs in front of a backend, and returns its address.
// Sites with a name would need TLS, and are plain ones here.
func serve(t *testing.T, config string, backend *caddytest.Backend) (addr string) {
	t.Helper()
	site := caddytest.New(t)
	port := caddytest.Port(site.Addr)
	config = strings.NewReplacer(
		"www.example.com", "http://www.example.com:"+port,
		"example.com", "http://example.com:"+port,
		":8080", ":"+port,
		"localhost:3000", backend.Addr(),
		"{env.INSTANTAPI_WEBHOOK_SECRET}", caddytest.Secret,
	).Replace(config)
	site.Start(t, config)
	return site.Addr
}

// send sends one and the same event to a target.
func send(t *testing.T, addr string, to target) caddytest.Reply {
	t.Helper()
	r := caddytest.Signed("http://"+addr+to.path, caddytest.Event("1"))
	r.Host = to.host
	return caddytest.Do(t, r)
}
