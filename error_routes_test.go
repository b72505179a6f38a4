package instantapi

import (
	"fmt"
	"net"
	"net/http"
	"testing"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
	"github.com/instantapi/caddy-instantapi-verify/signature"
)

func TestErrorRoutesTakeOver(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s := caddytest.New(t)
	other := caddytest.FreeAddr(t)
	_, port, _ := net.SplitHostPort(s.Addr)
	// two sites on one server: only one has error routes
	config := s.Global() + fmt.Sprintf(`
http://127.0.0.1:%[1]s {
	%[2]s
	handle_errors {
		respond "{http.error.status_code} {http.instantapi_verify.outcome}, says the site" {http.error.status_code}
	}
}
http://localhost:%[1]s {
	%[2]s
}
http://%[3]s {
	respond "another server"
}
`, port, caddytest.Guard(b, "answer_verification_requests\nin_flight_wait 0s"), other)
	if err := s.Load(config); err != nil {
		t.Fatal(err)
	}
	r := caddytest.Signed(s.URL("/"), caddytest.Event("1"))
	r.Header.Del(signature.DefaultHeader)
	if got := caddytest.Do(t, r); got.Status != 401 || got.Body != "401 bad_signature, says the site" {
		t.Errorf("got %d %s", got.Status, got.Body)
	}
	r, _ = http.NewRequest("PUT", s.URL("/"), nil)
	if got := caddytest.Do(t, r); got.Status != 405 || got.Header.Get("Allow") != "GET, HEAD, POST" {
		t.Errorf("got %d %v", got.Status, got.Header)
	}
	s.Send(t, "1").WantForwarded(t)
	s.Send(t, "1").WantDuplicate(t)
	r = caddytest.Signed("http://localhost:"+port+"/", caddytest.Event("1"))
	r.Header.Del(signature.DefaultHeader)
	caddytest.Do(t, r).WantJSON(t, 401, caddytest.Forged)
}

func TestErrorRouteForAStatus(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s := caddytest.New(t)
	_, port, _ := net.SplitHostPort(s.Addr)
	if err := s.Load(s.Global() + "http://:" + port + " {\n" + caddytest.Guard(b, "") + "\nhandle_errors 401 {\nrespond custom 401\n}\n}\n"); err != nil {
		t.Fatal(err)
	}
	r := caddytest.Signed(s.URL("/"), caddytest.Event("1"))
	r.Header.Del(signature.DefaultHeader)
	if got := caddytest.Do(t, r); got.Status != 401 || got.Body != "custom" {
		t.Errorf("got %d %s", got.Status, got.Body)
	}
	s.Post(t, "/", []byte("hello")).WantJSON(t, 400, caddytest.BadJSON)
}
