package instantapi

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
)

func TestCaddyfileOfHandler(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"one line", `instantapi_verify s`, `{"secrets":["s"]}`},
		{"placeholder", `instantapi_verify {env.S}`, `{"secrets":["{env.S}"]}`},
		{"secrets everywhere", "instantapi_verify a {\nsecret b c\nsecret d\n}", `{"secrets":["a","b","c","d"]}`},
		{"everything", `instantapi_verify {
			secret s
			signature_header X-Sig
			max_body_size 1MiB
			answer_verification_requests
			scope {http.request.host}
			dedupe_by task_id status
			retention 30d
			in_flight_wait 0s
			forward_timeout 1m
			on_store_error forward
			idempotency_header off
			verify_only
		}`, `{"secrets":["s"],"signature_header":"X-Sig","max_body_size":1048576,"answer_verification_requests":true,
			"scope":"{http.request.host}","dedupe_by":["task_id","status"],"retention":2592000000000000,"in_flight_wait":0,
			"forward_timeout":60000000000,"on_store_error":"forward","idempotency_header":"off","verify_only":true}`},
		{"forever", "instantapi_verify s {\nretention forever\n}", `{"secrets":["s"],"retention":"forever"}`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			h := new(Handler)
			if err := h.UnmarshalCaddyfile(caddyfile.NewTestDispenser(test.in)); err != nil {
				t.Fatal(err)
			}
			sameJSON(t, caddyconfig.JSON(h, nil), test.want)
			// and back: JSON can express everything that a Caddyfile can
			var again Handler
			if err := json.Unmarshal([]byte(test.want), &again); err != nil {
				t.Fatal(err)
			}
			sameJSON(t, caddyconfig.JSON(again, nil), test.want)
		})
	}
}

func sameJSON(t *testing.T, got []byte, want string) {
	t.Helper()
	var g, w any
	if err := json.Unmarshal(got, &g); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(g) != fmt.Sprint(w) {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestCaddyfileOfApp(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"nothing", "instantapi_verify", `{}`},
		{"empty", "instantapi_verify {\n}", `{}`},
		{"store", "instantapi_verify {\nstore badger\n}", `{"store":{"module":"badger"}}`},
		{"everything", "instantapi_verify {\nstore badger {\npath /var/lib/x\nsync off\nmin_free_space 1GB\n}\n}",
			`{"store":{"module":"badger","path":"/var/lib/x","sync":false,"min_free_space":1000000000}}`},
		{"sync on", "instantapi_verify {\nstore badger {\nsync on\n}\n}", `{"store":{"module":"badger","sync":true}}`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			a := new(App)
			if err := a.UnmarshalCaddyfile(caddyfile.NewTestDispenser(test.in)); err != nil {
				t.Fatal(err)
			}
			sameJSON(t, caddyconfig.JSON(a, nil), test.want)
		})
	}
}

// Each error names the option and the line, and the one in the site's block also
// what is wrong.
func TestCaddyfileErrors(t *testing.T) {
	tests := []struct{ line, want string }{
		{"nonsense", "unknown option nonsense; the options are secret, signature_header, max_body_size, answer_verification_requests, scope, dedupe_by, retention, in_flight_wait, forward_timeout, on_store_error, idempotency_header, verify_only"},
		{"nonsense a b", "unknown option nonsense"},
		{"path /x", "unknown option path"},
		{"secret", "secret needs an argument"},
		{`secret ""`, "secret: an argument is empty"},
		{"signature_header", "signature_header takes one argument, not 0"},
		{"signature_header a b", "signature_header takes one argument, not 2"},
		{"signature_header a b c", "signature_header takes one argument, not 3"},
		{"max_body_size big", `max_body_size: "big" is not a size`},
		{"max_body_size 0", `max_body_size: "0" is not a size`},
		{"max_body_size -1", `max_body_size: "-1" is not a size`},
		{"max_body_size 16EiB", `max_body_size: "16EiB" is not a size`},
		{"answer_verification_requests on", "answer_verification_requests takes no argument"},
		{"scope", "scope takes one argument"},
		{`scope ""`, "scope: an argument is empty"},
		{"dedupe_by", "dedupe_by needs an argument"},
		{"dedupe_by a a", `dedupe_by: field "a" is listed twice`},
		{"retention", "retention takes one argument"},
		{"retention never", "retention: "},
		{"retention 0", "retention: "},
		{"retention 0s", "retention: 0s is too short"},
		{"retention 999ms", "retention: 999ms is too short"},
		{"retention -1h", "retention: -1h is too short"},
		{"in_flight_wait soon", `in_flight_wait: "soon" is not a duration`},
		{"in_flight_wait -1s", `in_flight_wait: "-1s" is not a duration`},
		{"forward_timeout 0s", "forward_timeout: give more than 0"},
		{"forward_timeout 1", `forward_timeout: "1" is not a duration`},
		{"on_store_error panic", `on_store_error: "panic" is neither reject nor forward`},
		{"verify_only yes", "verify_only takes no argument"},
		{"verify_only\nverify_only", "verify_only is repeated; give it once"},
		{"scope a\nscope a", "scope is repeated; give it once"},
		{"retention 1h\nretention 2h", "retention is repeated; give it once"},
		{"scope a {\nb\n}", "scope takes no block"},
	}
	for _, test := range tests {
		t.Run(test.line, func(t *testing.T) {
			_, err := caddytest.Adapt("http://:80 {\ninstantapi_verify s {\n" + test.line + "\n}\n}\n")
			caddytest.WantError(t, err, test.want, fmt.Sprintf("Caddyfile:%d", 3+min(1, strings.Count(test.line, "\n"))))
		})
	}
	for in, want := range map[string]string{
		"instantapi_verify":                                 "needs a secret",
		"instantapi_verify {\n}":                            "needs a secret",
		"instantapi_verify {\nscope x\n}":                   "needs a secret",
		"instantapi_verify a b":                             "takes one secret on its line",
		"instantapi_verify a b {\n}":                        "takes one secret on its line",
		"instantapi_verify s {\nretention 1h\nnonsense\n}x": "nonsense",
	} {
		_, err := caddytest.Adapt("http://:80 {\n" + in + "\n}\n")
		caddytest.WantError(t, err, want, "Caddyfile:")
	}
}

func TestCaddyfileErrorsOfApp(t *testing.T) {
	store := func(line string) string { return "store badger {\n" + line + "\n}" }
	for in, want := range map[string]string{
		"nonsense":                   "unknown option nonsense; the only option is store",
		"store":                      "store needs the name of a module",
		"store redis":                "instantapi_verify.stores.redis",
		"store badger\nstore badger": "store is repeated; give it once",
		"store badger /var/lib":      "badger takes no argument",
		store("nonsense x"):          "unknown option nonsense; the options are path, sync, min_free_space",
		store("scope x"):             "unknown option scope",
		store("path"):                "path takes one argument",
		store("path a b"):            "path takes one argument",
		store("sync yes"):            `sync: "yes" is neither on nor off`,
		store("sync"):                "sync takes one argument",
		store("min_free_space lots"): `min_free_space: "lots" is not a size`,
		store("min_free_space 1GB\nmin_free_space 1GB"): "min_free_space is repeated; give it once",
	} {
		_, err := caddytest.Adapt("{\ninstantapi_verify {\n" + in + "\n}\n}\n:80\n")
		caddytest.WantError(t, err, want, "Caddyfile:")
	}
	_, err := caddytest.Adapt("{\ninstantapi_verify {\n}\ninstantapi_verify {\n}\n}\n:80\n")
	caddytest.WantError(t, err, "give it once")
	_, err = caddytest.Adapt("{\ninstantapi_verify badger\n}\n:80\n")
	caddytest.WantError(t, err, "takes no argument")
}

// JSON can still have errors that the Caddyfile's parser rules out.
func TestBadValuesDoNotLoad(t *testing.T) {
	t.Setenv("INSTANTAPI_TEST_EMPTY", "")
	t.Setenv("INSTANTAPI_TEST_SECRET", "whsec_do_not_tell")
	tests := []struct{ handler, want string }{
		{`{}`, "secret is required"},
		{`{"secrets":[]}`, "secret is required"},
		{`{"secrets":[""]}`, "secret is required"},
		{`{"secrets":["{env.INSTANTAPI_TEST_EMPTY}"]}`, "secret 1: {env.INSTANTAPI_TEST_EMPTY} is unset, empty"},
		{`{"secrets":["a","{env.INSTANTAPI_TEST_UNSET}"]}`, "secret 2: {env.INSTANTAPI_TEST_UNSET} is unset, empty"},
		{`{"secrets":["{file./does/not/exist}"]}`, "secret 1: {file./does/not/exist} is unset, empty, unreadable"},
		{`{"secrets":["{http.request.host}"]}`, "secret 1: a placeholder in it is unset"},
		{`{"secrets":["{env.INSTANTAPI_TEST_SECRET}{do_not_tell_either}"]}`, "secret 1: a placeholder in it is unset"},
		{`{"secrets":["s"],"signature_header":"X Sig"}`, "signature_header"},
		{`{"secrets":["s"],"max_body_size":-1}`, "max_body_size"},
		{`{"secrets":["s"],"dedupe_by":[]}`, "dedupe_by"},
		{`{"secrets":["s"],"dedupe_by":[""]}`, "dedupe_by"},
		{`{"secrets":["s"],"dedupe_by":["a","a"]}`, "dedupe_by"},
		{`{"secrets":["s"],"retention":5}`, "retention"},
		{`{"secrets":["s"],"retention":-2}`, "retention"},
		{`{"secrets":["s"],"retention":"never"}`, "invalid duration"},
		{`{"secrets":["s"],"in_flight_wait":-1}`, "in_flight_wait"},
		{`{"secrets":["s"],"forward_timeout":-1}`, "forward_timeout"},
		{`{"secrets":["s"],"on_store_error":"panic"}`, "on_store_error"},
		{`{"secrets":["s"],"nonsense":1}`, "nonsense"},
	}
	config := func(handler, app string) string {
		return fmt.Sprintf(`{"admin":{"disabled":true,"config":{"persist":false}},"logging":{"logs":{"default":{"writer":{"output":"discard"}}}},"apps":{"http":{"servers":{"s":{"routes":[{"handle":[{"handler":"instantapi_verify",%s]}]}}},
			"instantapi_verify":%s}}`, strings.TrimSuffix(strings.TrimPrefix(handler, "{"), "}")+"}", app)
	}
	validate := func(config string) error {
		config = strings.Replace(config, `"instantapi_verify",}`, `"instantapi_verify"}`, 1)
		var c caddy.Config
		if err := json.Unmarshal([]byte(config), &c); err != nil {
			t.Fatalf("%v: %s", err, config)
		}
		return caddy.Validate(&c)
	}
	for _, test := range tests {
		err := validate(config(test.handler, `{}`))
		caddytest.WantError(t, err, test.want)
		if err != nil && strings.Contains(err.Error(), "do_not_tell") {
			t.Errorf("error tells the secret: %v", err)
		}
	}
	for app, want := range map[string]string{
		`{"store":{"module":"redis"}}`:                         "redis",
		`{"store":{}}`:                                         "module",
		`{"store":{"module":"badger","min_free_space":1}}`:     "min_free_space: 1 bytes is too little; the database itself may need 32 MiB",
		`{"store":{"module":"badger","path":"{env.NOT_SET}"}}`: "path",
		`{"store":{"module":"badger","sync":"on"}}`:            "sync",
	} {
		caddytest.WantError(t, validate(config(`{"secrets":["s"]}`, app)), want)
	}
	if err := validate(config(`{"secrets":["s"]}`, `{}`)); err != nil {
		t.Errorf("the least config does not load: %v", err)
	}
}

func TestDefaults(t *testing.T) {
	h := new(Handler)
	h.setDefaults()
	want := Handler{
		SignatureHeader: "X-InstantAPI-Signature",
		MaxBodySize:     4 << 20,
		DedupeBy:        []string{"event_type", "task_id"},
		Retention:       Retention(720 * time.Hour),
		InFlightWait:    h.InFlightWait,
		ForwardTimeout:  caddy.Duration(2 * time.Minute),
		OnStoreError:    "reject",

		IdempotencyHeader: "Idempotency-Key",
	}
	if fmt.Sprint(*h) != fmt.Sprint(want) || *h.InFlightWait != caddy.Duration(5*time.Second) {
		t.Errorf("got %v, want %v", *h, want)
	}
}

func FuzzCaddyfile(f *testing.F) {
	for _, seed := range []string{
		"instantapi_verify s", "instantapi_verify s {\nsecret a b\nretention forever\n}", "instantapi_verify {\n", "instantapi_verify {\nsecret\n}",
		"instantapi_verify s {\nscope {http.request.host}\ndedupe_by a b\nverify_only\n}", "instantapi_verify s {\nmax_body_size 9999999999GiB\n}",
		"instantapi_verify s {\nin_flight_wait 106751d\n}", "instantapi_verify s {\nscope x {\ny\n}\n}", "instantapi_verify \"a b\" {\nsecret `c\nd`\n}",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		d := caddyfile.NewTestDispenser(in)
		h := new(Handler)
		if err := h.UnmarshalCaddyfile(d); err != nil {
			return
		}
		// The handler accepts what the parser accepts.
		h.setDefaults()
		if err := h.Validate(); err != nil && !strings.Contains(err.Error(), "give another header") {
			t.Errorf("%q: %v", in, err)
		}
		var again Handler
		if err := json.Unmarshal(caddyconfig.JSON(h, nil), &again); err != nil {
			t.Errorf("%q: %v", in, err)
		}
	})
}
