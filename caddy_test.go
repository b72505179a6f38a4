package instantapi

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/instantapi/caddy-instantapi-verify/signature"
	"github.com/instantapi/caddy-instantapi-verify/store"
)

// The promises of DESIGN.md, section 3, each kept by a real Caddy between real
// sockets, over a real Badger directory.

// guard returns the usual routes: the guard with these options, and a proxy.
func guard(b *backend, options string) string {
	return fmt.Sprintf("instantapi_verify %s {\n%s\n}\nreverse_proxy %s", testSecret, options, b.addr())
}

func TestVectors(t *testing.T) {
	file, err := os.ReadFile("testdata/vectors/signatures.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct {
		Name      string
		Secret    string
		Body      string `json:"body_base64"`
		Signature *string
		Status    int
	}
	if err := json.Unmarshal(file, &vectors); err != nil {
		t.Fatal(err)
	}
	if len(vectors) == 0 {
		t.Fatal("no vectors")
	}
	for _, v := range vectors {
		t.Run(v.Name, func(t *testing.T) {
			body, err := base64.StdEncoding.DecodeString(v.Body)
			if err != nil {
				t.Fatal(err)
			}
			b := newBackend(t, nil)
			s := run(t, fmt.Sprintf("instantapi_verify %s\nreverse_proxy %s", v.Secret, b.addr()))
			r := signed(s.url("/"), body)
			r.Header.Del(signature.DefaultHeader)
			if v.Signature != nil {
				r.Header.Set(signature.DefaultHeader, *v.Signature)
			}
			if got := do(t, r); got.status != v.Status {
				t.Errorf("got %d %s, want %d", got.status, got.body, v.Status)
			}
			forwarded := 0
			if v.Status == http.StatusOK {
				forwarded = 1
			}
			b.wantDeliveries(t, forwarded)
			if forwarded > 0 && !bytes.Equal(b.deliveries()[0].body, body) {
				t.Errorf("backend got %q, want %q", b.deliveries()[0].body, body)
			}
		})
	}
}

func TestRefusedBeforeTheBodyIsRead(t *testing.T) {
	good := signature.Sign(testSecret, taskEvent("1"))
	tests := []struct {
		name   string
		method string
		header []string
		status string
		body   string
	}{
		{"not POST", "PUT", []string{good}, "405 Method Not Allowed", `{"error": "Method not allowed"}`},
		{"GET", "GET", nil, "405 Method Not Allowed", `{"error": "Method not allowed"}`},
		{"no signature", "POST", nil, "401 Unauthorized", bodyForged},
		{"two signatures", "POST", []string{good, good}, "401 Unauthorized", bodyForged},
		{"two in one line", "POST", []string{good + ", " + good}, "401 Unauthorized", bodyForged},
		{"empty", "POST", []string{""}, "401 Unauthorized", bodyForged},
		{"63 digits", "POST", []string{good[1:]}, "401 Unauthorized", bodyForged},
		{"65 digits", "POST", []string{good + "0"}, "401 Unauthorized", bodyForged},
		{"not hex", "POST", []string{"g" + good[1:]}, "401 Unauthorized", bodyForged},
		{"another algorithm", "POST", []string{"sha512=" + good}, "401 Unauthorized", bodyForged},
		{"too large, as announced", "POST", []string{good}, "413 Request Entity Too Large", `{"error": "Body too large"}`},
	}
	b := newBackend(t, nil)
	s := run(t, guard(b, "max_body_size 1KB"))
	for i, test := range append(tests, tests...) {
		expect := ""
		if i >= len(tests) {
			expect = "Expect: 100-continue\r\n"
		}
		t.Run(test.name+expect, func(t *testing.T) {
			conn, err := net.Dial("tcp", s.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(10 * time.Second))
			// The body is announced and never sent: an answer can only come
			// from one who did not wait for it. Nor is it asked for.
			fmt.Fprintf(conn, "%s / HTTP/1.1\r\nHost: %s\r\nContent-Length: 5000\r\n%s", test.method, s.addr, expect)
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
	b.wantDeliveries(t, 0)
}

func TestSignatureHeaderCanBeRenamedAndPrefixed(t *testing.T) {
	b := newBackend(t, nil)
	s := run(t, guard(b, "signature_header x-hub-signature-256"))
	do(t, signed(s.url("/"), taskEvent("1"))).wantJSON(t, 401, bodyForged)
	for _, prefix := range []string{"sha256=", "sha256= "} {
		body := taskEvent("with " + prefix)
		r := signed(s.url("/"), body)
		r.Header.Set("X-Hub-Signature-256", prefix+signature.Sign(testSecret, body))
		do(t, r).wantForwarded(t)
	}
}

func TestAnyOfSeveralSecretsVerifies(t *testing.T) {
	t.Setenv("INSTANTAPI_TEST_SECRET", "from the environment")
	file := t.TempDir() + "/secret"
	if err := os.WriteFile(file, []byte("from a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := newBackend(t, nil)
	s := run(t, fmt.Sprintf("instantapi_verify {env.INSTANTAPI_TEST_SECRET} {\nsecret {file.%s} third\nsecret fourth\n}\nreverse_proxy %s", file, b.addr()))
	for i, secret := range []string{"from the environment", "from a file", "third", "fourth"} {
		body := taskEvent(fmt.Sprint(i))
		r := signed(s.url("/"), body)
		r.Header.Set(signature.DefaultHeader, signature.Sign(secret, body))
		do(t, r).wantForwarded(t)
	}
	do(t, signed(s.url("/"), taskEvent("x"))).wantJSON(t, 401, bodyForged)
}

func TestVerificationRequests(t *testing.T) {
	request := func(method, body string) func(url string) *http.Request {
		return func(url string) *http.Request {
			r, _ := http.NewRequest(method, url, strings.NewReader(body))
			return r
		}
	}
	tests := []struct {
		name    string
		request func(string) *http.Request
		status  int
		body    string
	}{
		{"GET", request("GET", ""), 200, bodyReceived},
		{"HEAD", request("HEAD", ""), 200, ""},
		{"POST without a body", request("POST", ""), 200, bodyReceived},
		{"POST of something", request("POST", `{"type":"ping"}`), 200, bodyReceived},
		{"POST of 4 KiB", request("POST", strings.Repeat("x", 4<<10)), 200, bodyReceived},
		{"POST of more", request("POST", strings.Repeat("x", 4<<10+1)), 401, bodyForged},
		{"unsigned event", request("POST", string(taskEvent("1"))), 401, bodyForged},
		{"unsigned event, escaped", request("POST", `{"task\u005fid":"1"}`), 401, bodyForged},
		{"unsigned event, escaped and cut", request("POST", `{"task\u005fid":"1","result":`), 401, bodyForged},
		{"unsigned event, escaped and no JSON", request("POST", `{"task\u005fid":"1","result":NaN}`), 401, bodyForged},
		{"unsigned event in a list", request("POST", `[{"task_id":"1"}]`), 401, bodyForged},
		{"other method", request("PUT", ""), 405, `{"error": "Method not allowed"}`},
		{"empty signature", func(url string) *http.Request {
			r := request("POST", "")(url)
			r.Header[http.CanonicalHeaderKey(signature.DefaultHeader)] = []string{""}
			return r
		}, 401, bodyForged},
	}
	b := newBackend(t, nil)
	// a store that fails shows that it is not asked
	s, faulty := runFaulty(t, guard(b, "answer_verification_requests"))
	faulty.set(func(store.Identity) error { return errors.New("asked") }, func(store.Identity) error { return errors.New("asked") })
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			do(t, test.request(s.url("/"))).wantJSON(t, test.status, test.body)
		})
	}
	b.wantDeliveries(t, 0)
}

func TestBodyArrivesByteForByte(t *testing.T) {
	body := []byte("{\"event_type\":\"task.completed\", \"task_id\":\"1\",\r\n\t\"result\":\"Z\u00fcrich \\ud83d \xff\"}\n ")
	chunks := func(pieces int) func(url string) *http.Request {
		return func(url string) *http.Request {
			r := signed(url, body)
			r.Body = io.NopCloser(&slowReader{data: body, pieces: pieces})
			r.ContentLength = -1
			r.Trailer = http.Header{"X-Trailer": {"from the sender"}}
			return r
		}
	}
	tests := []struct {
		name    string
		request func(string) *http.Request
	}{
		{"in one piece", func(url string) *http.Request { return signed(url, body) }},
		{"chunked, with a trailer", chunks(3)},
		{"a byte at a time", chunks(len(body))},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b := newBackend(t, nil)
			s := run(t, guard(b, ""))
			do(t, test.request(s.url("/path?query=1"))).wantForwarded(t)
			b.wantDeliveries(t, 1)
			got := b.deliveries()[0]
			if !bytes.Equal(got.body, body) {
				t.Errorf("backend got %q, want %q", got.body, body)
			}
			if got.ContentLength != int64(len(body)) || len(got.TransferEncoding) > 0 || len(got.Trailer) > 0 || got.Header.Get("Trailer") != "" {
				t.Errorf("Content-Length %d, Transfer-Encoding %v, trailer %v, want %d and none",
					got.ContentLength, got.TransferEncoding, got.Trailer, len(body))
			}
			if got.RequestURI != "/path?query=1" {
				t.Errorf("backend got %s", got.RequestURI)
			}
			if sig := got.Header.Get(signature.DefaultHeader); sig != signature.Sign(testSecret, body) {
				t.Errorf("signature header is %q", sig)
			}
		})
	}
}

// slowReader gives its data in pieces.
type slowReader struct {
	data   []byte
	pieces int
}

func (r *slowReader) Read(p []byte) (int, error) {
	if len(r.data) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), max(1, len(r.data)/r.pieces))], r.data)
	r.data = r.data[n:]
	r.pieces = max(1, r.pieces-1)
	return n, nil
}

func TestHTTPVersions(t *testing.T) {
	cert, key, roots := certificate(t)
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
			b := newBackend(t, nil)
			s := newSite(t)
			config := s.global("protocols h1 h2 h2c", "") + test.scheme + s.addr + " {\n" + test.tls + "\n" + guard(b, "") + "\n}\n"
			if err := s.load(config); err != nil {
				t.Fatal(err)
			}
			client := &http.Client{Transport: test.transport}
			defer client.CloseIdleConnections()
			for i, body := range [][]byte{taskEvent("1"), bytes.Replace(taskEvent("2"), []byte("ok"), bytes.Repeat([]byte("x"), 1<<20), 1)} {
				for _, length := range []int64{int64(len(body)), -1} {
					for _, want := range []string{"from the backend", bodyDuplicate} {
						r := signed(test.scheme+s.addr+fmt.Sprintf("/%d/%d", i, length), body)
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
			for _, got := range b.deliveries() {
				if got.Header.Get("Expect") != "" {
					t.Error("backend is asked to confirm what was sent already")
				}
			}
		})
	}
}

func TestIncompleteBodyChangesNothing(t *testing.T) {
	b := newBackend(t, nil)
	s := run(t, guard(b, ""))
	body := taskEvent("1")
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\nX-InstantAPI-Signature: %s\r\n\r\n%s",
		s.addr, len(body), signature.Sign(testSecret, body), body[:len(body)/2])
	conn.(*net.TCPConn).CloseWrite()
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != 400 {
		t.Errorf("got %s, want 400", res.Status)
	}
	b.wantDeliveries(t, 0)
	do(t, signed(s.url("/"), body)).wantForwarded(t)
}

func TestSizeLimit(t *testing.T) {
	body := taskEvent("1")
	for _, test := range []struct {
		name   string
		limit  int
		length int64
		status int
	}{
		{"just fits", len(body), int64(len(body)), 200},
		{"just fits, chunked", len(body), -1, 200},
		{"one too many", len(body) - 1, int64(len(body)), 413},
		{"one too many, chunked", len(body) - 1, -1, 413},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBackend(t, nil)
			s := run(t, guard(b, fmt.Sprintf("max_body_size %dB", test.limit)))
			r := signed(s.url("/"), body)
			r.ContentLength = test.length
			if got := do(t, r); got.status != test.status {
				t.Errorf("got %d %s, want %d", got.status, got.body, test.status)
			}
		})
	}
	t.Run("a limit set before ours", func(t *testing.T) {
		b := newBackend(t, nil)
		s := run(t, "route {\nrequest_body {\nmax_size 10\n}\n"+guard(b, "")+"\n}")
		r := signed(s.url("/"), body)
		r.ContentLength = -1
		do(t, r).wantJSON(t, 413, `{"error": "Body too large"}`)
	})
}

func TestBodyMustBeAnObject(t *testing.T) {
	tests := []struct {
		body   string
		status int
	}{
		{`{}`, 200}, {" {\"a\" : [1, {\"b\":null}]}\n", 200}, {"\ufeff{}", 200},
		{`{"a":1,"a":2}`, 200}, {`{"a":"\ud83d"}`, 200}, {"{\"a\":\"\xff\"}", 200},
		{`{"a":NaN,"b":[-Infinity]}`, 200}, {`{"a":01}`, 200}, {"{\"a\":\"\n\"}", 200}, {`{"a":"\x"}`, 200}, {`{"a":[1,]}`, 200},
		{`{"a":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}`, 200},
		{``, 400}, {`hello`, 400}, {`[]`, 400}, {`"x"`, 400}, {`null`, 400}, {`{`, 400}, {`{}}`, 400}, {`{} {}`, 400},
		{`{"a":}`, 400}, {`{"a":1,}`, 400}, {`{a:1}`, 400}, {`{'a':1}`, 400}, {`{"a" 1}`, 400}, {`{"a":[1}`, 400}, {" \ufeff{}", 400},
	}
	b := newBackend(t, nil)
	s := run(t, guard(b, ""))
	for i, test := range tests {
		r := signed(s.url(fmt.Sprint("/", i)), []byte(test.body))
		got := do(t, r)
		if got.status != test.status {
			t.Errorf("%.40q: got %d %s, want %d", test.body, got.status, got.body, test.status)
		}
		if test.status == 400 {
			got.wantJSON(t, 400, `{"error": "Invalid JSON"}`)
		}
	}
}

func TestEncodedBodyIsNotLookedInto(t *testing.T) {
	b := newBackend(t, nil)
	s := run(t, guard(b, ""))
	for _, want := range []string{"from the backend", bodyDuplicate} {
		r := signed(s.url("/"), []byte("\x1f\x8b not really gzip"))
		r.Header.Set("Content-Encoding", "gzip")
		if got := do(t, r); got.body != want {
			t.Errorf("got %d %s, want %s", got.status, got.body, want)
		}
	}
	r := signed(s.url("/"), []byte("plain"))
	r.Header.Set("Content-Encoding", "identity")
	do(t, r).wantJSON(t, 400, `{"error": "Invalid JSON"}`)
}

// What the signature does not cover must not make a new event of an old one.
func TestReplayInAnotherGuiseIsADuplicate(t *testing.T) {
	b := newBackend(t, nil)
	s := newSite(t)
	_, port, _ := net.SplitHostPort(s.addr)
	if err := s.load(s.global("", "") + "http://:" + port + " {\nhandle /hook* {\n" + guard(b, "") + "\n}\n}"); err != nil {
		t.Fatal(err)
	}
	body := taskEvent("1")
	do(t, signed(s.url("/hook"), body)).wantForwarded(t)
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
		r := signed(s.url("/hook"), body)
		disguise(r)
		if got := do(t, r); got.body != bodyDuplicate {
			t.Errorf("%s: got %d %s", name, got.status, got.body)
		}
	}
	b.wantDeliveries(t, 1)
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
			b := newBackend(t, nil)
			s := run(t, guard(b, test.options))
			do(t, signed(s.url("/"), []byte(test.first))).wantForwarded(t)
			got := do(t, signed(s.url("/"), []byte(test.second)))
			if test.same {
				got.wantJSON(t, 200, bodyDuplicate)
			} else {
				got.wantForwarded(t)
			}
		})
	}
}

func TestScope(t *testing.T) {
	t.Run("each endpoint gets its copy", func(t *testing.T) {
		b := newBackend(t, nil)
		s := run(t, guard(b, ""))
		do(t, signed(s.url("/one"), taskEvent("1"))).wantForwarded(t)
		do(t, signed(s.url("/two"), taskEvent("1"))).wantForwarded(t)
		do(t, signed(s.url("/one"), taskEvent("1"))).wantJSON(t, 200, bodyDuplicate)
	})
	t.Run("the port is no part of it", func(t *testing.T) {
		b := newBackend(t, nil)
		s := newSite(t)
		_, port, _ := strings.Cut(s.addr, ":")
		if err := s.load(strings.Replace(s.caddyfile(guard(b, "")), "http://"+s.addr, "http://:"+port, 1)); err != nil {
			t.Fatal(err)
		}
		for _, host := range []string{"example.com", "127.0.0.1", "[::1]"} {
			event := func(host string) *http.Request {
				r := signed(s.url("/"), taskEvent("1"))
				r.Host = host
				return r
			}
			do(t, event(host)).wantForwarded(t)
			do(t, event(host+":80")).wantJSON(t, 200, bodyDuplicate)
			do(t, event(host+":")).wantJSON(t, 200, bodyDuplicate)
		}
	})
	t.Run("rewriting does not change it", func(t *testing.T) {
		b := newBackend(t, nil)
		s := run(t, "handle_path /one/* {\n"+guard(b, "")+"\n}\nhandle_path /two/* {\n"+guard(b, "")+"\n}")
		do(t, signed(s.url("/one/x"), taskEvent("1"))).wantForwarded(t)
		do(t, signed(s.url("/two/x"), taskEvent("1"))).wantForwarded(t)
	})
	t.Run("one name for both", func(t *testing.T) {
		b := newBackend(t, nil)
		s := run(t, guard(b, "scope events"))
		do(t, signed(s.url("/one"), taskEvent("1"))).wantForwarded(t)
		do(t, signed(s.url("/two"), taskEvent("1"))).wantJSON(t, 200, bodyDuplicate)
	})
	t.Run("placeholders", func(t *testing.T) {
		b := newBackend(t, nil)
		s := run(t, guard(b, "scope tenant-{http.request.uri.query.tenant}"))
		do(t, signed(s.url("/one?tenant=a"), taskEvent("1"))).wantForwarded(t)
		do(t, signed(s.url("/two?tenant=a"), taskEvent("1"))).wantJSON(t, 200, bodyDuplicate)
		do(t, signed(s.url("/two?tenant=b"), taskEvent("1"))).wantForwarded(t)
	})
}

func TestChangedRepeatIsLogged(t *testing.T) {
	b := newBackend(t, nil)
	s := run(t, guard(b, ""))
	body := taskEvent("1")
	do(t, signed(s.url("/"), body)).wantForwarded(t)
	do(t, signed(s.url("/"), body)).wantJSON(t, 200, bodyDuplicate)
	if strings.Contains(s.logged(), "bytes differ") {
		t.Error("an unchanged repeat is called changed")
	}
	do(t, signed(s.url("/"), append(body, ' '))).wantJSON(t, 200, bodyDuplicate)
	if !strings.Contains(s.logged(), "bytes differ") {
		t.Error("a changed repeat is not logged")
	}
	b.wantDeliveries(t, 1)
}

func TestRetention(t *testing.T) {
	b := newBackend(t, nil)
	s := run(t, guard(b, "retention 1s"))
	do(t, signed(s.url("/"), taskEvent("1"))).wantForwarded(t)
	do(t, signed(s.url("/"), taskEvent("1"))).wantJSON(t, 200, bodyDuplicate)
	eventually(t, "event is forgotten", func() bool {
		return do(t, signed(s.url("/"), taskEvent("1"))).body == "from the backend"
	})
}

func TestForgottenNoEarlierThanRetention(t *testing.T) {
	h := &Handler{Retention: Retention(10 * time.Second)}
	t.Cleanup(func() { now = time.Now })
	for _, nanos := range []int64{0, 1, 5e8, 999_999_999} {
		at := time.Unix(1_000_000, nanos)
		now = func() time.Time { return at }
		kept := h.newRecord(0, 200).ExpiresAt.Sub(at)
		if kept < 10*time.Second || kept >= 11*time.Second {
			t.Errorf("delivered at %d ns: remembered for %s, want 10s", nanos, kept)
		}
	}
	h.Retention = Forever
	if !h.newRecord(0, 200).ExpiresAt.IsZero() {
		t.Error("forever ends")
	}
}

// concurrently sends the same event n times at once and returns the answers.
func concurrently(t *testing.T, url string, body []byte, n int) []reply {
	t.Helper()
	replies := make([]reply, n)
	var wg sync.WaitGroup
	for i := range replies {
		wg.Go(func() {
			var err error
			if replies[i], err = doWith(sender, signed(url, body)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	return replies
}

func TestConcurrentRepeatsWaitForTheOutcome(t *testing.T) {
	b := newBackend(t, func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(200 * time.Millisecond)
		io.WriteString(w, "from the backend")
	})
	s := run(t, guard(b, ""))
	forwarded := 0
	for _, got := range concurrently(t, s.url("/"), taskEvent("1"), 20) {
		if got.body == "from the backend" {
			forwarded++
		} else {
			got.wantJSON(t, 200, bodyDuplicate)
		}
	}
	if forwarded != 1 {
		t.Errorf("%d answers from the backend, want 1", forwarded)
	}
	b.wantDeliveries(t, 1)
}

func TestOneWaiterTakesOverAfterAFailure(t *testing.T) {
	var attempts, atOnce atomic.Int32
	b := newBackend(t, func(w http.ResponseWriter, _ *http.Request) {
		if atOnce.Add(1) > 1 {
			t.Error("two deliveries of one event at once")
		}
		defer atOnce.Add(-1)
		time.Sleep(50 * time.Millisecond)
		if attempts.Add(1) <= 3 {
			w.WriteHeader(500)
			return
		}
		io.WriteString(w, "from the backend")
	})
	s := run(t, guard(b, ""))
	statuses := map[string]int{}
	for _, got := range concurrently(t, s.url("/"), taskEvent("1"), 20) {
		statuses[fmt.Sprint(got.status, " ", got.body)]++
	}
	want := map[string]int{"500 ": 3, "200 from the backend": 1, "200 " + bodyDuplicate: 16}
	if fmt.Sprint(statuses) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", statuses, want)
	}
}

func TestStillBusyAfterTheWait(t *testing.T) {
	for _, wait := range []string{"0s", "100ms"} {
		release := make(chan struct{})
		b := newBackend(t, func(w http.ResponseWriter, _ *http.Request) { <-release })
		s := run(t, guard(b, "in_flight_wait "+wait))
		first := make(chan reply)
		go func() {
			got, _ := doWith(sender, signed(s.url("/"), taskEvent("1")))
			first <- got
		}()
		eventually(t, "first delivery begins", func() bool { return len(b.deliveries()) == 1 })
		got := do(t, signed(s.url("/"), taskEvent("1")))
		got.wantJSON(t, 503, bodyBusy)
		if got.header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
		close(release)
		if got := <-first; got.status != 200 {
			t.Errorf("first: %d", got.status)
		}
	}
}

func TestForwardedHeaders(t *testing.T) {
	b := newBackend(t, nil)
	s := run(t, guard(b, ""))
	r := signed(s.url("/"), taskEvent("1"))
	for _, name := range []string{"Idempotency-Key", "X-InstantAPI-Verified", "X-InstantAPI-Deduplicated"} {
		r.Header.Set(name, "spoofed")
		r.Header.Add(name, "twice")
	}
	do(t, r).wantForwarded(t)
	do(t, signed(s.url("/"), taskEvent("2"))).wantForwarded(t)
	got := b.deliveries()
	first := got[0].Header.Values("Idempotency-Key")
	if len(first) != 1 || len(first[0]) != 32 || first[0] == got[1].Header.Get("Idempotency-Key") {
		t.Errorf("Idempotency-Key is %q, then %q", first, got[1].Header.Get("Idempotency-Key"))
	}
	if verified := got[0].Header.Values("X-InstantAPI-Verified"); len(verified) != 1 || verified[0] != "true" {
		t.Errorf("X-InstantAPI-Verified is %q", verified)
	}
	if marked := got[0].Header.Values("X-InstantAPI-Deduplicated"); len(marked) != 0 {
		t.Errorf("X-InstantAPI-Deduplicated is %q", marked)
	}
}

func TestRetryHasTheSameIdempotencyKey(t *testing.T) {
	fail := true
	b := newBackend(t, func(w http.ResponseWriter, _ *http.Request) {
		if fail {
			w.WriteHeader(503)
		}
	})
	s := run(t, guard(b, ""))
	do(t, signed(s.url("/"), taskEvent("1")))
	fail = false
	do(t, signed(s.url("/"), taskEvent("1")))
	b.wantDeliveries(t, 2)
	got := b.deliveries()
	if a, b := got[0].Header.Get("Idempotency-Key"), got[1].Header.Get("Idempotency-Key"); a != b {
		t.Errorf("got %s, then %s", a, b)
	}
}

func TestDeliveryGoesOnWhenTheSenderHangsUp(t *testing.T) {
	release := make(chan struct{})
	b := newBackend(t, func(w http.ResponseWriter, r *http.Request) { <-release })
	s := run(t, guard(b, ""))
	ctx, hangUp := context.WithCancel(timeout(t))
	sent := make(chan error)
	go func() {
		_, err := doWith(sender, signed(s.url("/"), taskEvent("1")).WithContext(ctx))
		sent <- err
	}()
	eventually(t, "delivery begins", func() bool { return len(b.deliveries()) == 1 })
	hangUp()
	if err := <-sent; err == nil {
		t.Fatal("sender did not hang up")
	}
	time.Sleep(100 * time.Millisecond) // for the news to spread
	if err := b.deliveries()[0].Context().Err(); err != nil {
		t.Error("backend was hung up on")
	}
	close(release)
	do(t, signed(s.url("/"), taskEvent("1"))).wantJSON(t, 200, bodyDuplicate)
	b.wantDeliveries(t, 1)
}

func TestForwardTimeout(t *testing.T) {
	b := newBackend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Quick") == "" {
			<-r.Context().Done()
		}
	})
	s := run(t, guard(b, "forward_timeout 200ms"))
	if got := do(t, signed(s.url("/"), taskEvent("1"))); got.status != 504 {
		t.Errorf("got %d, want 504", got.status)
	}
	r := signed(s.url("/"), taskEvent("1"))
	r.Header.Set("Quick", "1")
	if got := do(t, r); got.status != 200 || got.body == bodyDuplicate {
		t.Errorf("got %d %s, want a delivery", got.status, got.body)
	}
}

func TestNoSuccessNoRecord(t *testing.T) {
	for _, status := range []int{301, 304, 400, 404, 409, 500, 503} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			b := newBackend(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
			s := run(t, guard(b, ""))
			client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
			for range 2 {
				got, err := doWith(client, signed(s.url("/"), taskEvent("1")))
				if err != nil || got.status != status {
					t.Errorf("got %d %v, want %d", got.status, err, status)
				}
			}
			b.wantDeliveries(t, 2)
		})
	}
	t.Run("backend is down", func(t *testing.T) {
		b := newBackend(t, nil)
		s := run(t, guard(b, ""))
		b.Close()
		for range 2 {
			if got := do(t, signed(s.url("/"), taskEvent("1"))); got.status != 502 {
				t.Errorf("got %d, want 502", got.status)
			}
		}
	})
	t.Run("backend hangs up", func(t *testing.T) {
		b := newBackend(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
		s := run(t, guard(b, ""))
		for range 2 {
			if got := do(t, signed(s.url("/"), taskEvent("1"))); got.status != 502 {
				t.Errorf("got %d, want 502", got.status)
			}
		}
		b.wantDeliveries(t, 2)
	})
	t.Run("handler panics", func(t *testing.T) {
		s := run(t, "instantapi_verify "+testSecret+"\ntest_panic")
		for range 2 {
			if _, err := doWith(sender, signed(s.url("/"), taskEvent("1"))); err == nil {
				t.Error("got an answer, want a broken connection")
			}
		}
		if n := panics.Load(); n != 2 {
			t.Errorf("handler was called %d times, want 2", n)
		}
	})
	t.Run("templates of nothing", func(t *testing.T) {
		s := run(t, "instantapi_verify "+testSecret+"\ntemplates")
		for range 2 {
			if got := do(t, signed(s.url("/"), taskEvent("1"))); got.status != 502 {
				t.Errorf("got %d %s, want 502", got.status, got.body)
			}
		}
	})
	t.Run("no handler", func(t *testing.T) {
		s := run(t, "instantapi_verify "+testSecret+"\nreverse_proxy /elsewhere 127.0.0.1:1")
		for range 2 {
			do(t, signed(s.url("/"), taskEvent("1"))).wantJSON(t, 502, `{"error": "No backend"}`)
		}
	})
}

func TestEverySuccessIsRecorded(t *testing.T) {
	for _, status := range []int{200, 201, 202, 204, 206, 299} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			b := newBackend(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
			s := run(t, guard(b, ""))
			if got := do(t, signed(s.url("/"), taskEvent("1"))); got.status != status {
				t.Errorf("got %d, want %d", got.status, status)
			}
			do(t, signed(s.url("/"), taskEvent("1"))).wantJSON(t, 200, bodyDuplicate)
		})
	}
	t.Run("after 103 Early Hints", func(t *testing.T) {
		fail := true
		b := newBackend(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(103)
			if fail {
				w.WriteHeader(500)
			}
		})
		s := run(t, guard(b, ""))
		if got := do(t, signed(s.url("/"), taskEvent("1"))); got.status != 500 {
			t.Errorf("got %d, want 500", got.status)
		}
		fail = false
		if got := do(t, signed(s.url("/"), taskEvent("1"))); got.body == bodyDuplicate {
			t.Error("1xx counts as a success")
		}
		do(t, signed(s.url("/"), taskEvent("1"))).wantJSON(t, 200, bodyDuplicate)
	})
	t.Run("backend fails after its header", func(t *testing.T) {
		b := newBackend(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			w.Write([]byte("begin"))
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		})
		s := run(t, guard(b, ""))
		if _, err := doWith(sender, signed(s.url("/"), taskEvent("1"))); err == nil {
			t.Error("broken answer arrived whole")
		}
		do(t, signed(s.url("/"), taskEvent("1"))).wantJSON(t, 200, bodyDuplicate)
	})
}

// Whatever a handler does first that lets an answer out, the record comes before.
func TestRecordedBeforeTheAnswerIsReleased(t *testing.T) {
	for _, first := range []string{"header", "write", "read_from", "flush"} {
		t.Run(first, func(t *testing.T) {
			s, faulty := runFaulty(t, "instantapi_verify "+testSecret+"\nroute {\ntest_answer "+first+"\n}")
			recording, release := make(chan struct{}), make(chan struct{})
			faulty.set(nil, func(store.Identity) error {
				close(recording)
				<-release
				return nil
			})
			answered := make(chan struct{})
			go func() {
				defer close(answered)
				res, err := sender.Do(signed(s.url("/"), taskEvent("1")))
				if err != nil {
					t.Error(err)
					return
				}
				res.Body.Close()
			}()
			<-recording
			select {
			case <-answered:
				t.Error("answer came before the record")
			case <-time.After(100 * time.Millisecond):
			}
			close(release)
			<-answered
		})
	}
}

func TestAnswerStreams(t *testing.T) {
	release := make(chan struct{})
	b := newBackend(t, func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "first")
		http.NewResponseController(w).Flush()
		<-release
		io.WriteString(w, "second")
	})
	s := run(t, strings.Replace(guard(b, ""), "reverse_proxy "+b.addr(), "reverse_proxy "+b.addr()+" {\nflush_interval -1\n}", 1))
	res, err := sender.Do(signed(s.url("/"), taskEvent("1")).WithContext(timeout(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	first := make([]byte, 5)
	if _, err := io.ReadFull(res.Body, first); err != nil || string(first) != "first" {
		t.Errorf("got %q %v", first, err)
	}
	close(release)
	if rest, err := io.ReadAll(res.Body); err != nil || string(rest) != "second" {
		t.Errorf("got %q %v", rest, err)
	}
}

func TestStoreFailsBeforeTheDelivery(t *testing.T) {
	broken := func(store.Identity) error { return errors.New("disk on fire") }
	t.Run("reject", func(t *testing.T) {
		b := newBackend(t, nil)
		s, faulty := runFaulty(t, guard(b, ""))
		faulty.set(broken, nil)
		got := do(t, signed(s.url("/"), taskEvent("1")))
		got.wantJSON(t, 503, bodyNoStore)
		if got.header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
		b.wantDeliveries(t, 0)
		faulty.set(nil, nil)
		do(t, signed(s.url("/"), taskEvent("1"))).wantForwarded(t)
	})
	t.Run("forward", func(t *testing.T) {
		b := newBackend(t, nil)
		s, faulty := runFaulty(t, guard(b, "on_store_error forward"))
		faulty.set(broken, broken)
		r := signed(s.url("/"), taskEvent("1"))
		r.Header.Set("X-InstantAPI-Deduplicated", "true")
		do(t, r).wantForwarded(t)
		if mark := b.deliveries()[0].Header.Values("X-InstantAPI-Deduplicated"); len(mark) != 1 || mark[0] != "false" {
			t.Errorf("X-InstantAPI-Deduplicated is %q, want false", mark)
		}
		// this process knows all the same
		do(t, signed(s.url("/"), taskEvent("1"))).wantJSON(t, 200, bodyDuplicate)
		b.wantDeliveries(t, 1)
	})
}

func TestStoreFailsAfterTheDelivery(t *testing.T) {
	b := newBackend(t, nil)
	s, faulty := runFaulty(t, guard(b, ""))
	faulty.set(nil, func(store.Identity) error { return errors.New("disk on fire") })
	do(t, signed(s.url("/"), taskEvent("1"))).wantForwarded(t)
	do(t, signed(s.url("/"), taskEvent("1"))).wantJSON(t, 200, bodyDuplicate)
	b.wantDeliveries(t, 1)
	if log := s.logged(); !strings.Contains(log, "could not be recorded") || !strings.Contains(log, "disk on fire") {
		t.Error("failure is not logged")
	}
	// The store is not given more to refuse.
	do(t, signed(s.url("/"), taskEvent("2"))).wantJSON(t, 503, bodyNoStore)
	b.wantDeliveries(t, 1)
	faulty.set(nil, nil)
	eventually(t, "delivery is recorded late", func() bool { return faulty.size() == 1 })
	eventually(t, "new events are taken again", func() bool { return do(t, signed(s.url("/"), taskEvent("2"))).status == 200 })
	do(t, signed(s.url("/"), taskEvent("1"))).wantJSON(t, 200, bodyDuplicate)
	b.wantDeliveries(t, 2)
}

// A store that hangs for as long as it may takes nobody's answer away.
func TestStoreFailsByHanging(t *testing.T) {
	b := newBackend(t, nil)
	s, faulty := runFaulty(t, guard(b, ""))
	faulty.set(nil, func(store.Identity) error {
		time.Sleep(time.Second)
		return errors.New("the disk does not answer")
	})
	do(t, signed(s.url("/"), taskEvent("1"))).wantForwarded(t)
	do(t, signed(s.url("/"), taskEvent("1"))).wantJSON(t, 200, bodyDuplicate)
	do(t, signed(s.url("/"), taskEvent("2"))).wantJSON(t, 503, bodyNoStore)
	faulty.set(nil, nil)
	eventually(t, "new events are taken again", func() bool { return do(t, signed(s.url("/"), taskEvent("2"))).status == 200 })
	b.wantDeliveries(t, 2)
}

func TestVerifyOnly(t *testing.T) {
	b := newBackend(t, nil)
	s := newSite(t)
	// no global option, so that a store would be made in the default place
	config := strings.Replace(s.caddyfile(guard(b, "verify_only")), "instantapi_verify {\n\t\tstore", "#", 1)
	config = strings.NewReplacer("path "+caddyQuote(s.store), "", "min_free_space 32MiB", "").Replace(config)
	config = config[:strings.Index(config, "\t#")] + "}\n" + config[strings.Index(config, "http://"):]
	if err := s.load(config); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		do(t, signed(s.url("/"), taskEvent("1"))).wantForwarded(t)
	}
	do(t, signed(s.url("/"), []byte("hello"))).wantJSON(t, 400, `{"error": "Invalid JSON"}`)
	b.wantDeliveries(t, 2)
	openLedgers.Range(func(key, _ any) bool {
		t.Errorf("store %v is open", key)
		return true
	})
}

func TestErrorRoutesTakeOver(t *testing.T) {
	b := newBackend(t, nil)
	s := newSite(t)
	other := freeAddr(t)
	_, port, _ := net.SplitHostPort(s.addr)
	// two sites on one server: only one has error routes
	config := s.global("", "") + fmt.Sprintf(`
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
`, port, guard(b, "answer_verification_requests\nin_flight_wait 0s"), other)
	if err := s.load(config); err != nil {
		t.Fatal(err)
	}
	r := signed(s.url("/"), taskEvent("1"))
	r.Header.Del(signature.DefaultHeader)
	if got := do(t, r); got.status != 401 || got.body != "401 bad_signature, says the site" {
		t.Errorf("got %d %s", got.status, got.body)
	}
	r, _ = http.NewRequest("PUT", s.url("/"), nil)
	if got := do(t, r); got.status != 405 || got.header.Get("Allow") != "GET, HEAD, POST" {
		t.Errorf("got %d %v", got.status, got.header)
	}
	do(t, signed(s.url("/"), taskEvent("1"))).wantForwarded(t)
	do(t, signed(s.url("/"), taskEvent("1"))).wantJSON(t, 200, bodyDuplicate)
	r = signed("http://localhost:"+port+"/", taskEvent("1"))
	r.Header.Del(signature.DefaultHeader)
	do(t, r).wantJSON(t, 401, bodyForged)
}

func TestPlaceholdersRouteAndAccessLogTells(t *testing.T) {
	completed, failed, unknown := newBackend(t, nil), newBackend(t, nil), newBackend(t, nil)
	s := run(t, fmt.Sprintf(`
	log
	instantapi_verify %s
	@completed vars {http.instantapi_verify.event_type} task.completed
	@failed vars {http.instantapi_verify.event_type} task.failed
	handle @completed {
		reverse_proxy %s {
			header_up X-Told "{http.instantapi_verify.task_id} {http.instantapi_verify.status} {http.instantapi_verify.outcome}"
		}
	}
	handle @failed {
		reverse_proxy %s
	}
	handle {
		reverse_proxy %s
	}`, testSecret, completed.addr(), failed.addr(), unknown.addr()))
	for _, kind := range []string{"task.completed", "task.failed", "task.unheard_of"} {
		body := bytes.Replace(taskEvent("T-1"), []byte("task.completed"), []byte(kind), 1)
		do(t, signed(s.url("/"), body)).wantForwarded(t)
	}
	completed.wantDeliveries(t, 1)
	failed.wantDeliveries(t, 1)
	unknown.wantDeliveries(t, 1)
	if told := completed.deliveries()[0].Header.Get("X-Told"); told != "T-1 completed forwarded" {
		t.Errorf("placeholders say %q", told)
	}
	do(t, signed(s.url("/"), taskEvent("T-1"))).wantJSON(t, 200, bodyDuplicate)
	do(t, signed(s.url("/"), []byte("x")))

	var told []string
	eventually(t, "access log is written", func() bool {
		told = nil
		for line := range strings.Lines(s.logged()) {
			var entry struct {
				Logger string
				Event  map[string]string `json:"instantapi_verify"`
			}
			if json.Unmarshal([]byte(line), &entry) == nil && strings.HasPrefix(entry.Logger, "http.log.access") {
				told = append(told, fmt.Sprint(entry.Event))
			}
		}
		return len(told) == 5
	})
	want := []string{
		"map[event_type:task.completed outcome:forwarded status:completed task_id:T-1]",
		"map[event_type:task.failed outcome:forwarded status:completed task_id:T-1]",
		"map[event_type:task.unheard_of outcome:forwarded status:completed task_id:T-1]",
		"map[event_type:task.completed outcome:duplicate status:completed task_id:T-1]",
		"map[outcome:bad_json]",
	}
	if fmt.Sprint(told) != fmt.Sprint(want) {
		t.Errorf("access log tells\n%s\nwant\n%s", strings.Join(told, "\n"), strings.Join(want, "\n"))
	}
}

// With several upstreams the proxy resends the body by itself, and only the last
// attempt is the delivery.
func TestSecondUpstreamGetsTheWholeBody(t *testing.T) {
	body := bytes.Replace(taskEvent("1"), []byte("ok"), bytes.Repeat([]byte("x"), 1<<20), 1)
	t.Run("first is down", func(t *testing.T) {
		b := newBackend(t, nil)
		s := run(t, fmt.Sprintf("instantapi_verify %s\nreverse_proxy %s %s {\nlb_policy first\nlb_try_duration 5s\nfail_duration 10s\n}", testSecret, freeAddr(t), b.addr()))
		do(t, signed(s.url("/"), body)).wantForwarded(t)
		do(t, signed(s.url("/"), body)).wantJSON(t, 200, bodyDuplicate)
		b.wantDeliveries(t, 1)
		if !bytes.Equal(b.deliveries()[0].body, body) {
			t.Error("body is not whole")
		}
	})
	t.Run("first dies while it reads", func(t *testing.T) {
		dying := newBackend(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
		b := newBackend(t, nil)
		s := run(t, fmt.Sprintf("instantapi_verify %s\nreverse_proxy %s %s {\nlb_policy first\nlb_try_duration 5s\nlb_retry_match {\nmethod POST\n}\nfail_duration 10s\nrequest_buffers 4MiB\n}",
			testSecret, dying.addr(), b.addr()))
		do(t, signed(s.url("/"), body)).wantForwarded(t)
		do(t, signed(s.url("/"), body)).wantJSON(t, 200, bodyDuplicate)
		b.wantDeliveries(t, 1)
		if !bytes.Equal(b.deliveries()[0].body, body) {
			t.Error("body is not whole")
		}
	})
}

func TestDeliveriesOutliveARestart(t *testing.T) {
	b := newBackend(t, nil)
	s := run(t, guard(b, ""))
	do(t, signed(s.url("/"), taskEvent("1"))).wantForwarded(t)
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	waitForClosedStores(t)
	s.mustLoad(guard(b, ""))
	do(t, signed(s.url("/"), taskEvent("1"))).wantJSON(t, 200, bodyDuplicate)
	b.wantDeliveries(t, 1)
}

func TestSecretsStayOutOfTheLog(t *testing.T) {
	t.Setenv("INSTANTAPI_TEST_SECRET", "whsec_do_not_tell")
	body := taskEvent("do-tell")
	b := newBackend(t, nil)
	s, faulty := runFaulty(t, "instantapi_verify {env.INSTANTAPI_TEST_SECRET} {\non_store_error forward\n}\nreverse_proxy "+b.addr())
	send := func(body []byte, sig string) {
		r := signed(s.url("/"), body)
		r.Header.Set(signature.DefaultHeader, sig)
		do(t, r)
	}
	expected := signature.Sign("whsec_do_not_tell", body)
	send(body, strings.Repeat("0", 64))
	send([]byte("junk_body_bytes"), signature.Sign("whsec_do_not_tell", []byte("junk_body_bytes")))
	faulty.set(func(store.Identity) error { return errors.New("on fire") }, func(store.Identity) error { return errors.New("on fire") })
	send(body, expected)
	send(append(body, ' '), signature.Sign("whsec_do_not_tell", append(body, ' ')))
	log := s.logged()
	for line := range strings.Lines(log) {
		if !strings.Contains(line, "instantapi_verify") {
			continue
		}
		for _, secret := range []string{"whsec_do_not_tell", expected, `"text\":\"ok`, "junk_body_bytes"} {
			if strings.Contains(strings.ToLower(line), secret) {
				t.Errorf("%q is in the log: %s", secret, line)
			}
		}
	}
	if strings.Count(log, "http.handlers.instantapi_verify") < 4 {
		t.Error("log does not tell what happened")
	}
}

// An upgrade must not make new events of old ones: this is the identity of an
// event, pinned.
func TestIdempotencyKeyStaysTheSame(t *testing.T) {
	b := newBackend(t, nil)
	s := run(t, guard(b, "scope example.com/hook"))
	do(t, signed(s.url("/"), taskEvent("task_1"))).wantForwarded(t)
	const want = "76c113b432e8750ded870abd663ab752"
	if got := b.deliveries()[0].Header.Get("Idempotency-Key"); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// A snippet that is imported twice makes two guards of one.
func TestTwoGuardsInARow(t *testing.T) {
	b := newBackend(t, nil)
	s := run(t, "route {\ninstantapi_verify "+testSecret+"\n"+guard(b, "")+"\n}")
	do(t, signed(s.url("/"), taskEvent("1"))).wantForwarded(t)
	do(t, signed(s.url("/"), taskEvent("1"))).wantJSON(t, 200, bodyDuplicate)
	b.wantDeliveries(t, 1)
}

func TestErrorRouteForAStatus(t *testing.T) {
	b := newBackend(t, nil)
	s := newSite(t)
	_, port, _ := net.SplitHostPort(s.addr)
	if err := s.load(s.global("", "") + "http://:" + port + " {\n" + guard(b, "") + "\nhandle_errors 401 {\nrespond custom 401\n}\n}\n"); err != nil {
		t.Fatal(err)
	}
	r := signed(s.url("/"), taskEvent("1"))
	r.Header.Del(signature.DefaultHeader)
	if got := do(t, r); got.status != 401 || got.body != "custom" {
		t.Errorf("got %d %s", got.status, got.body)
	}
	do(t, signed(s.url("/"), []byte("hello"))).wantJSON(t, 400, `{"error": "Invalid JSON"}`)
}

// The README's way to keep signatures out of Caddy's own access log.
func TestAccessLogCanDoWithoutTheSignature(t *testing.T) {
	b := newBackend(t, nil)
	for _, filter := range []string{"", "format filter {\nrequest>headers>X-Instantapi-Signature delete\n}"} {
		access := filepath.Join(t.TempDir(), "access.json")
		s := run(t, "log {\noutput file "+caddyQuote(access)+"\n"+filter+"\n}\n"+guard(b, ""))
		body := taskEvent("filter" + filter)
		do(t, signed(s.url("/"), body)).wantForwarded(t)
		line := ""
		eventually(t, "access log is written", func() bool {
			log, _ := os.ReadFile(access)
			line = string(log)
			return strings.Contains(line, `"outcome":"forwarded"`)
		})
		if logged := strings.Contains(line, signature.Sign(testSecret, body)); logged != (filter == "") {
			t.Errorf("with filter %q the signature is in the log: %t", filter, logged)
		}
		if err := caddy.Stop(); err != nil { // so that the file can be removed
			t.Fatal(err)
		}
	}
}
