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
	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
	"github.com/instantapi/caddy-instantapi-verify/signature"
	"github.com/instantapi/caddy-instantapi-verify/store"
	"github.com/instantapi/caddy-instantapi-verify/store/storetest"
)

// The promises of DESIGN.md, section 3, each kept by a real Caddy between real
// sockets, over a real Badger directory.

// guard returns the usual routes: the guard with these options, and a proxy.
func guard(b *caddytest.Backend, options string) string {
	return fmt.Sprintf("instantapi_verify %s {\n%s\n}\nreverse_proxy %s", caddytest.Secret, options, b.Addr())
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
			b := caddytest.NewBackend(t, nil)
			s := caddytest.Run(t, fmt.Sprintf("instantapi_verify %s\nreverse_proxy %s", v.Secret, b.Addr()))
			r := caddytest.Signed(s.URL("/"), body)
			r.Header.Del(signature.DefaultHeader)
			if v.Signature != nil {
				r.Header.Set(signature.DefaultHeader, *v.Signature)
			}
			if got := caddytest.Do(t, r); got.Status != v.Status {
				t.Errorf("got %d %s, want %d", got.Status, got.Body, v.Status)
			}
			forwarded := 0
			if v.Status == http.StatusOK {
				forwarded = 1
			}
			b.WantDeliveries(t, forwarded)
			if forwarded > 0 && !bytes.Equal(b.Deliveries()[0].Body, body) {
				t.Errorf("backend got %q, want %q", b.Deliveries()[0].Body, body)
			}
		})
	}
}

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
			// The body is announced and never sent: an answer can only come
			// from one who did not wait for it. Nor is it asked for.
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

func TestAnyOfSeveralSecretsVerifies(t *testing.T) {
	t.Setenv("INSTANTAPI_TEST_SECRET", "from the environment")
	file := t.TempDir() + "/secret"
	if err := os.WriteFile(file, []byte("from a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := caddytest.NewBackend(t, nil)
	s := caddytest.Run(t, fmt.Sprintf("instantapi_verify {env.INSTANTAPI_TEST_SECRET} {\nsecret {file.%s} third\nsecret fourth\n}\nreverse_proxy %s", file, b.Addr()))
	for i, secret := range []string{"from the environment", "from a file", "third", "fourth"} {
		body := caddytest.Event(fmt.Sprint(i))
		r := caddytest.Signed(s.URL("/"), body)
		r.Header.Set(signature.DefaultHeader, signature.Sign(secret, body))
		caddytest.Do(t, r).WantForwarded(t)
	}
	s.Send(t, "x").WantJSON(t, 401, caddytest.Forged)
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
		{"GET", request("GET", ""), 200, caddytest.Received},
		{"HEAD", request("HEAD", ""), 200, ""},
		{"POST without a body", request("POST", ""), 200, caddytest.Received},
		{"POST of something", request("POST", `{"type":"ping"}`), 200, caddytest.Received},
		{"POST of 4 KiB", request("POST", strings.Repeat("x", 4<<10)), 200, caddytest.Received},
		{"POST of more", request("POST", strings.Repeat("x", 4<<10+1)), 401, caddytest.Forged},
		{"unsigned event", request("POST", string(caddytest.Event("1"))), 401, caddytest.Forged},
		{"unsigned event, escaped", request("POST", `{"task\u005fid":"1"}`), 401, caddytest.Forged},
		{"unsigned event, escaped and cut", request("POST", `{"task\u005fid":"1","result":`), 401, caddytest.Forged},
		{"unsigned event, escaped and no JSON", request("POST", `{"task\u005fid":"1","result":NaN}`), 401, caddytest.Forged},
		{"unsigned event in a list", request("POST", `[{"task_id":"1"}]`), 401, caddytest.Forged},
		{"other method", request("PUT", ""), 405, caddytest.Method},
		{"empty signature", func(url string) *http.Request {
			r := request("POST", "")(url)
			r.Header[http.CanonicalHeaderKey(signature.DefaultHeader)] = []string{""}
			return r
		}, 401, caddytest.Forged},
	}
	b := caddytest.NewBackend(t, nil)
	// a store that fails shows that it is not asked
	s, faulty := caddytest.RunFaulty(t, caddytest.Guard(b, "answer_verification_requests"))
	faulty.SetFaults(storetest.Always(errors.New("asked")), storetest.Always(errors.New("asked")))
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			caddytest.Do(t, test.request(s.URL("/"))).WantJSON(t, test.status, test.body)
		})
	}
	b.WantDeliveries(t, 0)
}

func TestBodyArrivesByteForByte(t *testing.T) {
	body := []byte("{\"event_type\":\"task.completed\", \"task_id\":\"1\",\r\n\t\"result\":\"Z\u00fcrich \\ud83d \xff\"}\n ")
	chunks := func(pieces int) func(url string) *http.Request {
		return func(url string) *http.Request {
			r := caddytest.Signed(url, body)
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
		{"in one piece", func(url string) *http.Request { return caddytest.Signed(url, body) }},
		{"chunked, with a trailer", chunks(3)},
		{"a byte at a time", chunks(len(body))},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b := caddytest.NewBackend(t, nil)
			s := caddytest.Run(t, caddytest.Guard(b, ""))
			caddytest.Do(t, test.request(s.URL("/path?query=1"))).WantForwarded(t)
			b.WantDeliveries(t, 1)
			got := b.Deliveries()[0]
			if !bytes.Equal(got.Body, body) {
				t.Errorf("backend got %q, want %q", got.Body, body)
			}
			if got.ContentLength != int64(len(body)) || len(got.TransferEncoding) > 0 || len(got.Trailer) > 0 || got.Header.Get("Trailer") != "" {
				t.Errorf("Content-Length %d, Transfer-Encoding %v, trailer %v, want %d and none",
					got.ContentLength, got.TransferEncoding, got.Trailer, len(body))
			}
			if got.RequestURI != "/path?query=1" {
				t.Errorf("backend got %s", got.RequestURI)
			}
			if sig := got.Header.Get(signature.DefaultHeader); sig != signature.Sign(caddytest.Secret, body) {
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

func TestIncompleteBodyChangesNothing(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s := caddytest.Run(t, caddytest.Guard(b, ""))
	body := caddytest.Event("1")
	conn, err := net.Dial("tcp", s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\nX-InstantAPI-Signature: %s\r\n\r\n%s",
		s.Addr, len(body), signature.Sign(caddytest.Secret, body), body[:len(body)/2])
	conn.(*net.TCPConn).CloseWrite()
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != 400 {
		t.Errorf("got %s, want 400", res.Status)
	}
	b.WantDeliveries(t, 0)
	s.Post(t, "/", body).WantForwarded(t)
}

func TestSizeLimit(t *testing.T) {
	body := caddytest.Event("1")
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
			b := caddytest.NewBackend(t, nil)
			s := caddytest.Run(t, caddytest.Guard(b, fmt.Sprintf("max_body_size %dB", test.limit)))
			r := caddytest.Signed(s.URL("/"), body)
			r.ContentLength = test.length
			if got := caddytest.Do(t, r); got.Status != test.status {
				t.Errorf("got %d %s, want %d", got.Status, got.Body, test.status)
			}
		})
	}
	t.Run("a limit set before ours", func(t *testing.T) {
		b := caddytest.NewBackend(t, nil)
		s := caddytest.Run(t, "route {\nrequest_body {\nmax_size 10\n}\n"+caddytest.Guard(b, "")+"\n}")
		r := caddytest.Signed(s.URL("/"), body)
		r.ContentLength = -1
		caddytest.Do(t, r).WantJSON(t, 413, caddytest.TooLarge)
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
	b := caddytest.NewBackend(t, nil)
	s := caddytest.Run(t, caddytest.Guard(b, ""))
	for i, test := range tests {
		r := caddytest.Signed(s.URL(fmt.Sprint("/", i)), []byte(test.body))
		got := caddytest.Do(t, r)
		if got.Status != test.status {
			t.Errorf("%.40q: got %d %s, want %d", test.body, got.Status, got.Body, test.status)
		}
		if test.status == 400 {
			got.WantJSON(t, 400, caddytest.BadJSON)
		}
	}
}

func TestEncodedBodyIsNotLookedInto(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s := caddytest.Run(t, caddytest.Guard(b, ""))
	for _, want := range []string{"from the backend", caddytest.Duplicate} {
		r := caddytest.Signed(s.URL("/"), []byte("\x1f\x8b not really gzip"))
		r.Header.Set("Content-Encoding", "gzip")
		if got := caddytest.Do(t, r); got.Body != want {
			t.Errorf("got %d %s, want %s", got.Status, got.Body, want)
		}
	}
	r := caddytest.Signed(s.URL("/"), []byte("plain"))
	r.Header.Set("Content-Encoding", "identity")
	caddytest.Do(t, r).WantJSON(t, 400, caddytest.BadJSON)
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

func TestChangedRepeatIsLogged(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s := caddytest.Run(t, caddytest.Guard(b, ""))
	body := caddytest.Event("1")
	s.Post(t, "/", body).WantForwarded(t)
	s.Post(t, "/", body).WantDuplicate(t)
	if strings.Contains(s.Logged(), "bytes differ") {
		t.Error("an unchanged repeat is called changed")
	}
	s.Post(t, "/", append(body, ' ')).WantDuplicate(t)
	if !strings.Contains(s.Logged(), "bytes differ") {
		t.Error("a changed repeat is not logged")
	}
	b.WantDeliveries(t, 1)
}

func TestRetention(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s := caddytest.Run(t, caddytest.Guard(b, "retention 1s"))
	s.Send(t, "1").WantForwarded(t)
	s.Send(t, "1").WantDuplicate(t)
	caddytest.Eventually(t, "event is forgotten", func() bool {
		return s.Send(t, "1").Body == "from the backend"
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
func concurrently(t *testing.T, url string, body []byte, n int) []caddytest.Reply {
	t.Helper()
	replies := make([]caddytest.Reply, n)
	var wg sync.WaitGroup
	for i := range replies {
		wg.Go(func() {
			var err error
			if replies[i], err = caddytest.DoWith(caddytest.Sender, caddytest.Signed(url, body)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	return replies
}

func TestConcurrentRepeatsWaitForTheOutcome(t *testing.T) {
	b := caddytest.NewBackend(t, func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(200 * time.Millisecond)
		io.WriteString(w, "from the backend")
	})
	s := caddytest.Run(t, caddytest.Guard(b, ""))
	forwarded := 0
	for _, got := range concurrently(t, s.URL("/"), caddytest.Event("1"), 20) {
		if got.Body == "from the backend" {
			forwarded++
		} else {
			got.WantDuplicate(t)
		}
	}
	if forwarded != 1 {
		t.Errorf("%d answers from the backend, want 1", forwarded)
	}
	b.WantDeliveries(t, 1)
}

func TestOneWaiterTakesOverAfterAFailure(t *testing.T) {
	var attempts, atOnce atomic.Int32
	b := caddytest.NewBackend(t, func(w http.ResponseWriter, _ *http.Request) {
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
	s := caddytest.Run(t, caddytest.Guard(b, ""))
	statuses := map[string]int{}
	for _, got := range concurrently(t, s.URL("/"), caddytest.Event("1"), 20) {
		statuses[fmt.Sprint(got.Status, " ", got.Body)]++
	}
	want := map[string]int{"500 ": 3, "200 from the backend": 1, "200 " + caddytest.Duplicate: 16}
	if fmt.Sprint(statuses) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", statuses, want)
	}
}

func TestStillBusyAfterTheWait(t *testing.T) {
	for _, wait := range []string{"0s", "100ms"} {
		release := make(chan struct{})
		b := caddytest.NewBackend(t, func(w http.ResponseWriter, _ *http.Request) { <-release })
		s := caddytest.Run(t, caddytest.Guard(b, "in_flight_wait "+wait))
		first := make(chan caddytest.Reply)
		go func() {
			got, _ := caddytest.DoWith(caddytest.Sender, caddytest.Signed(s.URL("/"), caddytest.Event("1")))
			first <- got
		}()
		caddytest.Eventually(t, "first delivery begins", func() bool { return len(b.Deliveries()) == 1 })
		got := s.Send(t, "1")
		got.WantJSON(t, 503, caddytest.Busy)
		if got.Header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
		close(release)
		if got := <-first; got.Status != 200 {
			t.Errorf("first: %d", got.Status)
		}
	}
}

func TestForwardedHeaders(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s := caddytest.Run(t, caddytest.Guard(b, ""))
	r := caddytest.Signed(s.URL("/"), caddytest.Event("1"))
	for _, name := range []string{"Idempotency-Key", "X-InstantAPI-Verified", "X-InstantAPI-Deduplicated"} {
		r.Header.Set(name, "spoofed")
		r.Header.Add(name, "twice")
	}
	caddytest.Do(t, r).WantForwarded(t)
	s.Send(t, "2").WantForwarded(t)
	got := b.Deliveries()
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
	b := caddytest.NewBackend(t, func(w http.ResponseWriter, _ *http.Request) {
		if fail {
			w.WriteHeader(503)
		}
	})
	s := caddytest.Run(t, caddytest.Guard(b, ""))
	s.Send(t, "1")
	fail = false
	s.Send(t, "1")
	b.WantDeliveries(t, 2)
	got := b.Deliveries()
	if a, b := got[0].Header.Get("Idempotency-Key"), got[1].Header.Get("Idempotency-Key"); a != b {
		t.Errorf("got %s, then %s", a, b)
	}
}

func TestDeliveryGoesOnWhenTheSenderHangsUp(t *testing.T) {
	release := make(chan struct{})
	b := caddytest.NewBackend(t, func(w http.ResponseWriter, r *http.Request) { <-release })
	s := caddytest.Run(t, caddytest.Guard(b, ""))
	ctx, hangUp := context.WithCancel(caddytest.Timeout(t))
	sent := make(chan error)
	go func() {
		_, err := caddytest.DoWith(caddytest.Sender, caddytest.Signed(s.URL("/"), caddytest.Event("1")).WithContext(ctx))
		sent <- err
	}()
	caddytest.Eventually(t, "delivery begins", func() bool { return len(b.Deliveries()) == 1 })
	hangUp()
	if err := <-sent; err == nil {
		t.Fatal("sender did not hang up")
	}
	time.Sleep(100 * time.Millisecond) // for the news to spread
	if err := b.Deliveries()[0].Context().Err(); err != nil {
		t.Error("backend was hung up on")
	}
	close(release)
	s.Send(t, "1").WantDuplicate(t)
	b.WantDeliveries(t, 1)
}

func TestForwardTimeout(t *testing.T) {
	b := caddytest.NewBackend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Quick") == "" {
			<-r.Context().Done()
		}
	})
	s := caddytest.Run(t, caddytest.Guard(b, "forward_timeout 200ms"))
	if got := s.Send(t, "1"); got.Status != 504 {
		t.Errorf("got %d, want 504", got.Status)
	}
	r := caddytest.Signed(s.URL("/"), caddytest.Event("1"))
	r.Header.Set("Quick", "1")
	if got := caddytest.Do(t, r); got.Status != 200 || got.Body == caddytest.Duplicate {
		t.Errorf("got %d %s, want a delivery", got.Status, got.Body)
	}
}

func TestNoSuccessNoRecord(t *testing.T) {
	for _, status := range []int{301, 304, 400, 404, 409, 500, 503} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			b := caddytest.NewBackend(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
			s := caddytest.Run(t, caddytest.Guard(b, ""))
			client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
			for range 2 {
				got, err := caddytest.DoWith(client, caddytest.Signed(s.URL("/"), caddytest.Event("1")))
				if err != nil || got.Status != status {
					t.Errorf("got %d %v, want %d", got.Status, err, status)
				}
			}
			b.WantDeliveries(t, 2)
		})
	}
	t.Run("backend is down", func(t *testing.T) {
		b := caddytest.NewBackend(t, nil)
		s := caddytest.Run(t, caddytest.Guard(b, ""))
		b.Close()
		for range 2 {
			if got := s.Send(t, "1"); got.Status != 502 {
				t.Errorf("got %d, want 502", got.Status)
			}
		}
	})
	t.Run("backend hangs up", func(t *testing.T) {
		b := caddytest.NewBackend(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
		s := caddytest.Run(t, caddytest.Guard(b, ""))
		for range 2 {
			if got := s.Send(t, "1"); got.Status != 502 {
				t.Errorf("got %d, want 502", got.Status)
			}
		}
		b.WantDeliveries(t, 2)
	})
	t.Run("handler panics", func(t *testing.T) {
		s := caddytest.Run(t, "instantapi_verify "+caddytest.Secret+"\ntest panic")
		for range 2 {
			if _, err := caddytest.DoWith(caddytest.Sender, caddytest.Signed(s.URL("/"), caddytest.Event("1"))); err == nil {
				t.Error("got an answer, want a broken connection")
			}
		}
		if n := caddytest.Panics.Load(); n != 2 {
			t.Errorf("handler was called %d times, want 2", n)
		}
	})
	t.Run("templates of nothing", func(t *testing.T) {
		s := caddytest.Run(t, "instantapi_verify "+caddytest.Secret+"\ntemplates")
		for range 2 {
			if got := s.Send(t, "1"); got.Status != 502 {
				t.Errorf("got %d %s, want 502", got.Status, got.Body)
			}
		}
	})
	t.Run("no handler", func(t *testing.T) {
		s := caddytest.Run(t, "instantapi_verify "+caddytest.Secret+"\nreverse_proxy /elsewhere 127.0.0.1:1")
		for range 2 {
			s.Send(t, "1").WantJSON(t, 502, `{"error": "No backend"}`)
		}
	})
}

func TestEverySuccessIsRecorded(t *testing.T) {
	for _, status := range []int{200, 201, 202, 204, 206, 299} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			b := caddytest.NewBackend(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
			s := caddytest.Run(t, caddytest.Guard(b, ""))
			if got := s.Send(t, "1"); got.Status != status {
				t.Errorf("got %d, want %d", got.Status, status)
			}
			s.Send(t, "1").WantDuplicate(t)
		})
	}
	t.Run("after 103 Early Hints", func(t *testing.T) {
		fail := true
		b := caddytest.NewBackend(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(103)
			if fail {
				w.WriteHeader(500)
			}
		})
		s := caddytest.Run(t, caddytest.Guard(b, ""))
		if got := s.Send(t, "1"); got.Status != 500 {
			t.Errorf("got %d, want 500", got.Status)
		}
		fail = false
		if got := s.Send(t, "1"); got.Body == caddytest.Duplicate {
			t.Error("1xx counts as a success")
		}
		s.Send(t, "1").WantDuplicate(t)
	})
	t.Run("backend fails after its header", func(t *testing.T) {
		b := caddytest.NewBackend(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			w.Write([]byte("begin"))
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		})
		s := caddytest.Run(t, caddytest.Guard(b, ""))
		if _, err := caddytest.DoWith(caddytest.Sender, caddytest.Signed(s.URL("/"), caddytest.Event("1"))); err == nil {
			t.Error("broken answer arrived whole")
		}
		s.Send(t, "1").WantDuplicate(t)
	})
}

// Whatever a handler does first that lets an answer out, the record comes before.
func TestRecordedBeforeTheAnswerIsReleased(t *testing.T) {
	for _, first := range []string{"header", "write", "read_from", "flush"} {
		t.Run(first, func(t *testing.T) {
			s, faulty := caddytest.RunFaulty(t, "instantapi_verify "+caddytest.Secret+"\nroute {\ntest "+first+"\n}")
			recording, release := make(chan struct{}), make(chan struct{})
			faulty.SetFaults(nil, func(context.Context, store.Identity) error {
				close(recording)
				<-release
				return nil
			})
			answered := make(chan struct{})
			go func() {
				defer close(answered)
				res, err := caddytest.Sender.Do(caddytest.Signed(s.URL("/"), caddytest.Event("1")))
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
	b := caddytest.NewBackend(t, func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "first")
		http.NewResponseController(w).Flush()
		<-release
		io.WriteString(w, "second")
	})
	s := caddytest.Run(t, strings.Replace(caddytest.Guard(b, ""), "reverse_proxy "+b.Addr(), "reverse_proxy "+b.Addr()+" {\nflush_interval -1\n}", 1))
	res, err := caddytest.Sender.Do(caddytest.Signed(s.URL("/"), caddytest.Event("1")).WithContext(caddytest.Timeout(t)))
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
	broken := storetest.Always(errors.New("disk on fire"))
	t.Run("reject", func(t *testing.T) {
		b := caddytest.NewBackend(t, nil)
		s, faulty := caddytest.RunFaulty(t, caddytest.Guard(b, ""))
		faulty.SetFaults(broken, nil)
		got := s.Send(t, "1")
		got.WantJSON(t, 503, caddytest.NoStore)
		if got.Header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
		b.WantDeliveries(t, 0)
		faulty.SetFaults(nil, nil)
		s.Send(t, "1").WantForwarded(t)
	})
	t.Run("forward", func(t *testing.T) {
		b := caddytest.NewBackend(t, nil)
		s, faulty := caddytest.RunFaulty(t, caddytest.Guard(b, "on_store_error forward"))
		faulty.SetFaults(broken, broken)
		r := caddytest.Signed(s.URL("/"), caddytest.Event("1"))
		r.Header.Set("X-InstantAPI-Deduplicated", "true")
		caddytest.Do(t, r).WantForwarded(t)
		if mark := b.Deliveries()[0].Header.Values("X-InstantAPI-Deduplicated"); len(mark) != 1 || mark[0] != "false" {
			t.Errorf("X-InstantAPI-Deduplicated is %q, want false", mark)
		}
		// this process knows all the same
		s.Send(t, "1").WantDuplicate(t)
		b.WantDeliveries(t, 1)
	})
}

func TestStoreFailsAfterTheDelivery(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s, faulty := caddytest.RunFaulty(t, caddytest.Guard(b, ""))
	faulty.SetFaults(nil, storetest.Always(errors.New("disk on fire")))
	s.Send(t, "1").WantForwarded(t)
	s.Send(t, "1").WantDuplicate(t)
	b.WantDeliveries(t, 1)
	if log := s.Logged(); !strings.Contains(log, "could not be recorded") || !strings.Contains(log, "disk on fire") {
		t.Error("failure is not logged")
	}
	// The store is not given more to refuse.
	s.Send(t, "2").WantJSON(t, 503, caddytest.NoStore)
	b.WantDeliveries(t, 1)
	faulty.SetFaults(nil, nil)
	caddytest.Eventually(t, "delivery is recorded late", func() bool { return len(faulty.Records()) == 1 })
	caddytest.Eventually(t, "new events are taken again", func() bool { return s.Send(t, "2").Status == 200 })
	s.Send(t, "1").WantDuplicate(t)
	b.WantDeliveries(t, 2)
}

// A store that hangs for as long as it may takes nobody's answer away.
func TestStoreFailsByHanging(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s, faulty := caddytest.RunFaulty(t, caddytest.Guard(b, ""))
	faulty.SetFaults(nil, func(context.Context, store.Identity) error {
		time.Sleep(time.Second)
		return errors.New("the disk does not answer")
	})
	s.Send(t, "1").WantForwarded(t)
	s.Send(t, "1").WantDuplicate(t)
	s.Send(t, "2").WantJSON(t, 503, caddytest.NoStore)
	faulty.SetFaults(nil, nil)
	caddytest.Eventually(t, "new events are taken again", func() bool { return s.Send(t, "2").Status == 200 })
	b.WantDeliveries(t, 2)
}

func TestVerifyOnly(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s := caddytest.New(t)
	// no global option, so that a store would be made in the default place
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

func TestPlaceholdersRouteAndAccessLogTells(t *testing.T) {
	completed, failed, unknown := caddytest.NewBackend(t, nil), caddytest.NewBackend(t, nil), caddytest.NewBackend(t, nil)
	s := caddytest.Run(t, fmt.Sprintf(`
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
	}`, caddytest.Secret, completed.Addr(), failed.Addr(), unknown.Addr()))
	for _, kind := range []string{"task.completed", "task.failed", "task.unheard_of"} {
		body := bytes.Replace(caddytest.Event("T-1"), []byte("task.completed"), []byte(kind), 1)
		s.Post(t, "/", body).WantForwarded(t)
	}
	completed.WantDeliveries(t, 1)
	failed.WantDeliveries(t, 1)
	unknown.WantDeliveries(t, 1)
	if told := completed.Deliveries()[0].Header.Get("X-Told"); told != "T-1 completed forwarded" {
		t.Errorf("placeholders say %q", told)
	}
	s.Send(t, "T-1").WantDuplicate(t)
	s.Post(t, "/", []byte("x"))

	var told []string
	caddytest.Eventually(t, "access log is written", func() bool {
		told = nil
		for line := range strings.Lines(s.Logged()) {
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
	body := bytes.Replace(caddytest.Event("1"), []byte("ok"), bytes.Repeat([]byte("x"), 1<<20), 1)
	t.Run("first is down", func(t *testing.T) {
		b := caddytest.NewBackend(t, nil)
		s := caddytest.Run(t, fmt.Sprintf("instantapi_verify %s\nreverse_proxy %s %s {\nlb_policy first\nlb_try_duration 5s\nfail_duration 10s\n}", caddytest.Secret, caddytest.FreeAddr(t), b.Addr()))
		s.Post(t, "/", body).WantForwarded(t)
		s.Post(t, "/", body).WantDuplicate(t)
		b.WantDeliveries(t, 1)
		if !bytes.Equal(b.Deliveries()[0].Body, body) {
			t.Error("body is not whole")
		}
	})
	t.Run("first dies while it reads", func(t *testing.T) {
		dying := caddytest.NewBackend(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
		b := caddytest.NewBackend(t, nil)
		s := caddytest.Run(t, fmt.Sprintf("instantapi_verify %s\nreverse_proxy %s %s {\nlb_policy first\nlb_try_duration 5s\nlb_retry_match {\nmethod POST\n}\nfail_duration 10s\nrequest_buffers 4MiB\n}",
			caddytest.Secret, dying.Addr(), b.Addr()))
		s.Post(t, "/", body).WantForwarded(t)
		s.Post(t, "/", body).WantDuplicate(t)
		b.WantDeliveries(t, 1)
		if !bytes.Equal(b.Deliveries()[0].Body, body) {
			t.Error("body is not whole")
		}
	})
}

func TestDeliveriesOutliveARestart(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s := caddytest.Run(t, caddytest.Guard(b, ""))
	s.Send(t, "1").WantForwarded(t)
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	waitForClosedStores(t)
	s.MustLoad(caddytest.Guard(b, ""))
	s.Send(t, "1").WantDuplicate(t)
	b.WantDeliveries(t, 1)
}

func TestSecretsStayOutOfTheLog(t *testing.T) {
	t.Setenv("INSTANTAPI_TEST_SECRET", "whsec_do_not_tell")
	body := caddytest.Event("do-tell")
	b := caddytest.NewBackend(t, nil)
	s, faulty := caddytest.RunFaulty(t, "instantapi_verify {env.INSTANTAPI_TEST_SECRET} {\non_store_error forward\n}\nreverse_proxy "+b.Addr())
	send := func(body []byte, sig string) {
		r := caddytest.Signed(s.URL("/"), body)
		r.Header.Set(signature.DefaultHeader, sig)
		caddytest.Do(t, r)
	}
	expected := signature.Sign("whsec_do_not_tell", body)
	send(body, strings.Repeat("0", 64))
	send([]byte("junk_body_bytes"), signature.Sign("whsec_do_not_tell", []byte("junk_body_bytes")))
	faulty.SetFaults(storetest.Always(errors.New("on fire")), storetest.Always(errors.New("on fire")))
	send(body, expected)
	send(append(body, ' '), signature.Sign("whsec_do_not_tell", append(body, ' ')))
	log := s.Logged()
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
	b := caddytest.NewBackend(t, nil)
	s := caddytest.Run(t, caddytest.Guard(b, "scope example.com/hook"))
	s.Send(t, "task_1").WantForwarded(t)
	const want = "76c113b432e8750ded870abd663ab752"
	if got := b.Deliveries()[0].Header.Get("Idempotency-Key"); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// A snippet that is imported twice makes two guards of one.
func TestTwoGuardsInARow(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s := caddytest.Run(t, "route {\ninstantapi_verify "+caddytest.Secret+"\n"+caddytest.Guard(b, "")+"\n}")
	s.Send(t, "1").WantForwarded(t)
	s.Send(t, "1").WantDuplicate(t)
	b.WantDeliveries(t, 1)
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

// The README's way to keep signatures out of Caddy's own access log.
func TestAccessLogCanDoWithoutTheSignature(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	for _, filter := range []string{"", "format filter {\nrequest>headers>X-Instantapi-Signature delete\n}"} {
		access := filepath.Join(t.TempDir(), "access.json")
		s := caddytest.Run(t, "log {\noutput file "+caddytest.Quote(access)+"\n"+filter+"\n}\n"+caddytest.Guard(b, ""))
		body := caddytest.Event("filter" + filter)
		s.Post(t, "/", body).WantForwarded(t)
		line := ""
		caddytest.Eventually(t, "access log is written", func() bool {
			log, _ := os.ReadFile(access)
			line = string(log)
			return strings.Contains(line, `"outcome":"forwarded"`)
		})
		if logged := strings.Contains(line, signature.Sign(caddytest.Secret, body)); logged != (filter == "") {
			t.Errorf("with filter %q the signature is in the log: %t", filter, logged)
		}
		if err := caddy.Stop(); err != nil { // so that the file can be removed
			t.Fatal(err)
		}
	}
}
