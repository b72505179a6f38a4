package instantapi

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
	"github.com/instantapi/caddy-instantapi-verify/signature"
)

// These tests check what the guard promises, with a real Caddy, real sockets
// and a real Badger directory. They follow a request: this file has what holds
// before its body is read, then come probe_test.go, verify_test.go,
// dedupe_test.go, claim_test.go and forward_test.go; error_routes_test.go and
// store_error_test.go are about failures.

func TestRefusedBeforeTheBodyIsRead(t *testing.T) {
	good := signature.Sign(caddytest.Secret, caddytest.Event("1"))
	tests := []struct {
		name   string
		method string
		header []string
		status string
		body   string
	}{
		{"not POST", "PUT", []string{good}, "405 Method Not Allowed", caddytest.Method},
		{"GET", "GET", nil, "405 Method Not Allowed", caddytest.Method},
		{"no signature", "POST", nil, "401 Unauthorized", caddytest.Forged},
		{"two signatures", "POST", []string{good, good}, "401 Unauthorized", caddytest.Forged},
		{"two in one line", "POST", []string{good + ", " + good}, "401 Unauthorized", caddytest.Forged},
		{"empty", "POST", []string{""}, "401 Unauthorized", caddytest.Forged},
		{"63 digits", "POST", []string{good[1:]}, "401 Unauthorized", caddytest.Forged},
		{"65 digits", "POST", []string{good + "0"}, "401 Unauthorized", caddytest.Forged},
		{"not hex", "POST", []string{"g" + good[1:]}, "401 Unauthorized", caddytest.Forged},
		{"another algorithm", "POST", []string{"sha512=" + good}, "401 Unauthorized", caddytest.Forged},
		{"too large, as announced", "POST", []string{good}, "413 Request Entity Too Large", caddytest.TooLarge},
	}
	b := caddytest.NewBackend(t, nil)
	s := caddytest.Run(t, caddytest.Guard(b, "max_body_size 1KB"))
	for i, test := range append(tests, tests...) {
		expect := ""
		if i >= len(tests) {
			expect = "Expect: 100-continue\r\n"
		}
		t.Run(test.name+expect, func(t *testing.T) {
			conn, err := net.Dial("tcp", s.Addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(10 * time.Second))
			// The body is announced and never sent, so an answer shows that the
			// guard did not wait for it. The guard does not ask for it either.
			fmt.Fprintf(conn, "%s / HTTP/1.1\r\nHost: %s\r\nContent-Length: 5000\r\n%s", test.method, s.Addr, expect)
			for _, value := range test.header {
				fmt.Fprintf(conn, "X-InstantAPI-Signature: %s\r\n", value)
			}
			io.WriteString(conn, "\r\n")
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(res.Body)
			if res.Status != test.status || string(body) != test.body {
				t.Errorf("got %s %s, want %s %s", res.Status, body, test.status, test.body)
			}
			if allow := res.Header.Get("Allow"); res.StatusCode == 405 && allow != "POST" {
				t.Errorf("Allow is %q, want POST", allow)
			}
		})
	}
	b.WantDeliveries(t, 0)
}

func TestSignatureHeaderCanBeRenamedAndPrefixed(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s := caddytest.Run(t, caddytest.Guard(b, "signature_header x-hub-signature-256"))
	s.Send(t, "1").WantJSON(t, 401, caddytest.Forged)
	for _, prefix := range []string{"sha256=", "sha256= "} {
		body := caddytest.Event("with " + prefix)
		r := caddytest.Signed(s.URL("/"), body)
		r.Header.Set("X-Hub-Signature-256", prefix+signature.Sign(caddytest.Secret, body))
		caddytest.Do(t, r).WantForwarded(t)
	}
}

func TestHTTPVersions(t *testing.T) {
	cert, key, roots := caddytest.Certificate(t)
	var h2c, h2 http.Protocols
	h2c.SetUnencryptedHTTP2(true)
	h2.SetHTTP2(true)
	tlsConfig := &tls.Config{RootCAs: roots}
	tests := []struct {
		name, scheme, tls string
		transport         *http.Transport
		proto             string
	}{
		{"HTTP/1.1", "http://", "", &http.Transport{}, "HTTP/1.1"},
		{"HTTP/1.1 over TLS", "https://", "tls " + cert + " " + key, &http.Transport{TLSClientConfig: tlsConfig}, "HTTP/1.1"},
		{"h2", "https://", "tls " + cert + " " + key, &http.Transport{TLSClientConfig: tlsConfig, Protocols: &h2}, "HTTP/2.0"},
		{"h2c", "http://", "", &http.Transport{Protocols: &h2c}, "HTTP/2.0"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b := caddytest.NewBackend(t, nil)
			s := caddytest.New(t)
			s.Servers = "protocols h1 h2 h2c"
			config := s.Global() + test.scheme + s.Addr + " {\n" + test.tls + "\n" + caddytest.Guard(b, "") + "\n}\n"
			if err := s.Load(config); err != nil {
				t.Fatal(err)
			}
			client := &http.Client{Transport: test.transport}
			defer client.CloseIdleConnections()
			for i, body := range [][]byte{caddytest.Event("1"), bytes.Replace(caddytest.Event("2"), []byte("ok"), bytes.Repeat([]byte("x"), 1<<20), 1)} {
				for _, length := range []int64{int64(len(body)), -1} {
					for _, want := range []string{"from the backend", caddytest.Duplicate} {
						r := caddytest.Signed(test.scheme+s.Addr+fmt.Sprintf("/%d/%d", i, length), body)
						r.ContentLength = length
						r.Header.Set("Expect", "100-continue")
						res, err := client.Do(r)
						if err != nil {
							t.Fatal(err)
						}
						answer, _ := io.ReadAll(res.Body)
						res.Body.Close()
						if res.Proto != test.proto || string(answer) != want {
							t.Errorf("got %s %s %q, want %s %q", res.Proto, res.Status, answer, test.proto, want)
						}
					}
				}
			}
			for _, got := range b.Deliveries() {
				if got.Header.Get("Expect") != "" {
					t.Error("backend is asked to confirm what was sent already")
				}
			}
		})
	}
}

func TestVerifyOnly(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s := caddytest.New(t)
	// no global option, so a store would be made in the default directory
	config := strings.Replace(s.Caddyfile(caddytest.Guard(b, "verify_only")), "instantapi_verify {\n\t\tstore", "#", 1)
	config = strings.NewReplacer("path "+caddytest.Quote(s.Store), "", "min_free_space 32MiB", "").Replace(config)
	config = config[:strings.Index(config, "\t#")] + "}\n" + config[strings.Index(config, "http://"):]
	if err := s.Load(config); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		s.Send(t, "1").WantForwarded(t)
	}
	s.Post(t, "/", []byte("hello")).WantJSON(t, 400, caddytest.BadJSON)
	b.WantDeliveries(t, 2)
	openLedgers.Range(func(key, _ any) bool {
		t.Errorf("store %v is open", key)
		return true
	})
}

// A snippet that is imported twice puts one guard behind another.
func TestTwoGuardsInARow(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s := caddytest.Run(t, "route {\ninstantapi_verify "+caddytest.Secret+"\n"+caddytest.Guard(b, "")+"\n}")
	s.Send(t, "1").WantForwarded(t)
	s.Send(t, "1").WantDuplicate(t)
	b.WantDeliveries(t, 1)
}
