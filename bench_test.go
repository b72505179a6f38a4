package instantapi

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
	"github.com/instantapi/caddy-instantapi-verify/signature"
	"github.com/instantapi/caddy-instantapi-verify/store/badger"
	"go.uber.org/zap"
)

// BenchmarkVerify compares the verification of a header and a body with a bare
// SHA-256 of the same bytes.
func BenchmarkVerify(b *testing.B) {
	for _, size := range benchmarkSizes {
		body := make([]byte, size)
		b.Run(fmt.Sprintf("size=%d/verify", size), func(b *testing.B) {
			v, err := signature.NewVerifier("secret")
			if err != nil {
				b.Fatal(err)
			}
			header := []string{signature.Sign("secret", body)}
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				sig, err := signature.Parse(header)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := v.Verify(body, sig); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("size=%d/sha256", size), func(b *testing.B) {
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				sha256.Sum256(body)
			}
		})
	}
}

var benchmarkSizes = []int{1 << 10, 64 << 10, 1 << 20}

// BenchmarkGuard measures what the guard alone adds to a request: without
// Caddy's server, without a network, with a backend that does nothing. All
// cases include the cost of "without", which only makes the request.
func BenchmarkGuard(b *testing.B) {
	for _, test := range []struct {
		name       string
		verifyOnly bool
		send       func(i int) int // the event of the i-th request
	}{
		{"without", true, func(i int) int { return i }},
		{"verify-only", true, func(i int) int { return i }},
		{"new-events", false, func(i int) int { return i }},
		{"repeats", false, func(i int) int { return 0 }},
	} {
		b.Run(test.name, func(b *testing.B) {
			ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
			defer cancel()
			h := &Handler{Secrets: []string{caddytest.Secret}, VerifyOnly: true} // provisioned without Caddy's apps
			if err := h.Provision(ctx); err != nil {
				b.Fatal(err)
			}
			h.log = zap.NewNop()
			if h.VerifyOnly = test.verifyOnly; !h.VerifyOnly {
				off := false
				engine := &badger.Module{Path: b.TempDir(), Sync: &off, MinFreeSpace: 32 << 20}
				h.app = &App{store: engine, key: engine.Key(), options: engine.Options()}
				if err := h.app.Start(); err != nil {
					b.Fatal(err)
				}
				defer func() {
					if err := h.app.Cleanup(); err != nil {
						b.Error(err)
					}
					waitForClosedStores(b)
				}()
			}
			next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
				w.WriteHeader(http.StatusOK)
				return nil
			})
			serve := func(w http.ResponseWriter, r *http.Request) error { return h.ServeHTTP(w, r, next) }
			if test.name == "without" {
				serve = next
			}
			var count atomic.Int64
			b.ReportAllocs()
			b.SetParallelism(32)
			b.RunParallel(func(pb *testing.PB) {
				repl := caddy.NewReplacer()
				for pb.Next() {
					body := benchEvent(test.send(int(count.Add(1))))
					r := caddytest.Signed("http://localhost/", body)
					ctx := context.WithValue(r.Context(), caddy.ReplacerCtxKey, repl)
					ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, map[string]any{})
					if err := serve(discardWriter{http.Header{}}, r.WithContext(ctx)); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}

func benchEvent(i int) []byte {
	return fmt.Appendf(nil, `{"event_type":"task.completed","status":"completed","result":{"text":%q},"task_id":"task_%d"}`, strings.Repeat("x", 900), i)
}

// discardWriter is an http.ResponseWriter that discards the answer.
type discardWriter struct{ header http.Header }

func (w discardWriter) Header() http.Header       { return w.header }
func (discardWriter) Write(p []byte) (int, error) { return len(p), nil }
func (discardWriter) WriteHeader(int)             {}
