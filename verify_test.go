package instantapi

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
	"github.com/instantapi/caddy-instantapi-verify/signature"
)

// These tests are about which requests are whole, authentic events.

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
