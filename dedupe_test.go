package instantapi

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
	"github.com/instantapi/caddy-instantapi-verify/signature"
	"github.com/instantapi/caddy-instantapi-verify/store"
)

// These tests are about the identity of events, however a request presents
// them.

func TestIdentityIsUnambiguous(t *testing.T) {
	seen := map[store.Identity]string{}
	for name, id := range map[string]store.Identity{
		"a|b|c":         fieldsIdentity(t, "a", `"b"`, `"c"`),
		"ab|c":          fieldsIdentity(t, "ab", `"c"`),
		"a|bc":          fieldsIdentity(t, "a", `"bc"`),
		"a|b quote c":   fieldsIdentity(t, "a", `"b\"c"`),
		"|a|b|c":        fieldsIdentity(t, "", `"a"`, `"b"`, `"c"`),
		"a number":      fieldsIdentity(t, "a", `1`),
		"its text":      fieldsIdentity(t, "a", `"1"`),
		"body":          identifyBody("a", []byte("bc")),
		"body, scope":   identifyBody("ab", []byte("c")),
		"a field of it": fieldsIdentity(t, "a", `"`+hex.EncodeToString(sha256.New().Sum([]byte("bc")))+`"`),
	} {
		if other, taken := seen[id]; taken {
			t.Errorf("%s and %s have the same identity", name, other)
		}
		seen[id] = name
	}
	// Across versions an event must keep its identity, or it is new again.
	if id := fieldsIdentity(t, "example.com/hook", `"task.completed"`, `"task_1"`).String(); id != "76c113b432e8750ded870abd663ab752" {
		t.Errorf("identity became %s", id)
	}
}

// fieldsIdentity is the identity of an event with these values.
func fieldsIdentity(t *testing.T, scope string, values ...string) store.Identity {
	t.Helper()
	var raw []jsontext.Value
	for _, value := range values {
		raw = append(raw, jsontext.Value(value))
	}
	id, ok := identifyFields(scope, raw...)
	if !ok {
		t.Fatalf("%q identify no event", values)
	}
	return id
}

// What the signature does not cover must not make a new event of an old one.
func TestReplayInAnotherGuiseIsADuplicate(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s := caddytest.New(t)
	_, port, _ := net.SplitHostPort(s.Addr)
	if err := s.Load(s.Global() + "http://:" + port + " {\nhandle /hook* {\n" + caddytest.Guard(b, "") + "\n}\n}"); err != nil {
		t.Fatal(err)
	}
	body := caddytest.Event("1")
	s.Post(t, "/hook", body).WantForwarded(t)
	guises := map[string]func(*http.Request){
		"content encoding": func(r *http.Request) { r.Header.Set("Content-Encoding", "gzip") },
		"content type":     func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") },
		"case of the path": func(r *http.Request) { r.URL.Path = "/Hook" },
		"slash":            func(r *http.Request) { r.URL.Path = "/hook/" },
		"slashes":          func(r *http.Request) { r.URL.Path = "//hook" },
		"dots":             func(r *http.Request) { r.URL.Path = "/x/../hook" },
		"escapes":          func(r *http.Request) { r.URL.Path, r.URL.RawPath = "/hook", "/%68ook" },
		"query":            func(r *http.Request) { r.URL.RawQuery = "x=1" },
		"port":             func(r *http.Request) { r.Host = "127.0.0.1" },
		"final dot":        func(r *http.Request) { r.Host = "127.0.0.1." },
		"case of the digits": func(r *http.Request) {
			r.Header.Set(signature.DefaultHeader, strings.ToUpper(r.Header.Get(signature.DefaultHeader)))
		},
	}
	for name, disguise := range guises {
		r := caddytest.Signed(s.URL("/hook"), body)
		disguise(r)
		if got := caddytest.Do(t, r); got.Body != caddytest.Duplicate {
			t.Errorf("%s: got %d %s", name, got.Status, got.Body)
		}
	}
	b.WantDeliveries(t, 1)
}

func TestIdentity(t *testing.T) {
	event := func(kind, id, rest string) string {
		return fmt.Sprintf(`{"event_type":%s,"task_id":%s,"result":%s}`, kind, id, rest)
	}
	tests := []struct {
		name          string
		options       string
		first, second string
		same          bool
	}{
		{"repeat", "", event(`"a"`, `"1"`, `0`), event(`"a"`, `"1"`, `0`), true},
		{"repeat with other contents", "", event(`"a"`, `"1"`, `0`), event(`"a"`, `"1"`, `1`), true},
		{"repeat with other spelling", "", event(`"a"`, `"1"`, `0`), event(`"\u0061"`, ` "1" `, `0`), true},
		{"another task", "", event(`"a"`, `"1"`, `0`), event(`"a"`, `"2"`, `0`), false},
		{"another type", "", event(`"task.failed"`, `"1"`, `0`), event(`"task.completed"`, `"1"`, `0`), false},
		{"another type, by the task alone", "dedupe_by task_id", event(`"task.failed"`, `"1"`, `0`), event(`"task.completed"`, `"1"`, `0`), true},
		{"no concatenation", "", event(`"ab"`, `"c"`, `0`), event(`"a"`, `"bc"`, `0`), false},
		{"a number is not its text", "", event(`"a"`, `1`, `0`), event(`"a"`, `"1"`, `0`), false},
		{"number", "", event(`"a"`, `1`, `0`), event(`"a"`, `1`, `1`), true},
		{"missing field, same body", "", `{"task_id":"1"}`, `{"task_id":"1"}`, true},
		{"missing field, other body", "", `{"task_id":"1"}`, `{"task_id":"1", "result":1}`, false},
		{"empty field, other body", "", event(`""`, `"1"`, `0`), event(`""`, `"1"`, `1`), false},
		{"null, other body", "", event(`null`, `"1"`, `0`), event(`null`, `"1"`, `1`), false},
		{"no fields", "", `{"a":1}`, `{"a":2}`, false},
		{"text that can't be told apart", "", event(`"a"`, `"\ud83d"`, `0`), event(`"a"`, `"\ud83e"`, `0`), false},
		{"last of repeated names", "", `{"event_type":"a","task_id":"1","task_id":"2"}`, event(`"a"`, `"2"`, `0`), true},
		{"nested names do not count", "", `{"event_type":"a","task_id":"1","result":{"task_id":"2"}}`, event(`"a"`, `"1"`, `0`), true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b := caddytest.NewBackend(t, nil)
			s := caddytest.Run(t, caddytest.Guard(b, test.options))
			s.Post(t, "/", []byte(test.first)).WantForwarded(t)
			got := s.Post(t, "/", []byte(test.second))
			if test.same {
				got.WantDuplicate(t)
			} else {
				got.WantForwarded(t)
			}
		})
	}
}

func TestScope(t *testing.T) {
	t.Run("each endpoint gets its copy", func(t *testing.T) {
		b := caddytest.NewBackend(t, nil)
		s := caddytest.Run(t, caddytest.Guard(b, ""))
		s.Post(t, "/one", caddytest.Event("1")).WantForwarded(t)
		s.Post(t, "/two", caddytest.Event("1")).WantForwarded(t)
		s.Post(t, "/one", caddytest.Event("1")).WantDuplicate(t)
	})
	t.Run("the port is no part of it", func(t *testing.T) {
		b := caddytest.NewBackend(t, nil)
		s := caddytest.New(t)
		_, port, _ := strings.Cut(s.Addr, ":")
		if err := s.Load(strings.Replace(s.Caddyfile(caddytest.Guard(b, "")), "http://"+s.Addr, "http://:"+port, 1)); err != nil {
			t.Fatal(err)
		}
		for _, host := range []string{"example.com", "127.0.0.1", "[::1]"} {
			event := func(host string) *http.Request {
				r := caddytest.Signed(s.URL("/"), caddytest.Event("1"))
				r.Host = host
				return r
			}
			caddytest.Do(t, event(host)).WantForwarded(t)
			caddytest.Do(t, event(host+":80")).WantDuplicate(t)
			caddytest.Do(t, event(host+":")).WantDuplicate(t)
		}
	})
	t.Run("rewriting does not change it", func(t *testing.T) {
		b := caddytest.NewBackend(t, nil)
		s := caddytest.Run(t, "handle_path /one/* {\n"+caddytest.Guard(b, "")+"\n}\nhandle_path /two/* {\n"+caddytest.Guard(b, "")+"\n}")
		s.Post(t, "/one/x", caddytest.Event("1")).WantForwarded(t)
		s.Post(t, "/two/x", caddytest.Event("1")).WantForwarded(t)
	})
	t.Run("one name for both", func(t *testing.T) {
		b := caddytest.NewBackend(t, nil)
		s := caddytest.Run(t, caddytest.Guard(b, "scope events"))
		s.Post(t, "/one", caddytest.Event("1")).WantForwarded(t)
		s.Post(t, "/two", caddytest.Event("1")).WantDuplicate(t)
	})
	t.Run("placeholders", func(t *testing.T) {
		b := caddytest.NewBackend(t, nil)
		s := caddytest.Run(t, caddytest.Guard(b, "scope tenant-{http.request.uri.query.tenant}"))
		s.Post(t, "/one?tenant=a", caddytest.Event("1")).WantForwarded(t)
		s.Post(t, "/two?tenant=a", caddytest.Event("1")).WantDuplicate(t)
		s.Post(t, "/two?tenant=b", caddytest.Event("1")).WantForwarded(t)
	})
}

// An upgrade must not make new events of old ones: this is the identity of an
// event, pinned.
func TestIdempotencyKeyStaysTheSame(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s := caddytest.Run(t, caddytest.Guard(b, "scope example.com/hook"))
	s.Send(t, "task_1").WantForwarded(t)
	const want = "76c113b432e8750ded870abd663ab752"
	if got := b.Deliveries()[0].Header.Get("Idempotency-Key"); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
