package instantapi

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Handlers that do what a proxy can't be made to do.

func init() {
	for _, name := range []string{"test_panic", "test_silent", "test_answer"} {
		httpcaddyfile.RegisterHandlerDirective(name, func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
			h.Next()
			t := &testHandler{Do: strings.TrimPrefix(h.Val(), "test_")}
			if h.NextArg() {
				t.Do = h.Val()
			}
			return t, nil
		})
		httpcaddyfile.RegisterDirectiveOrder(name, httpcaddyfile.Before, "respond")
	}
	caddy.RegisterModule(testHandler{})
}

type testHandler struct {
	Do string `json:"do"`
}

var panics atomic.Int32

func (testHandler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.test_in_root", New: func() caddy.Module { return new(testHandler) }}
}

func (t testHandler) ServeHTTP(w http.ResponseWriter, _ *http.Request, _ caddyhttp.Handler) error {
	switch t.Do {
	case "panic":
		panics.Add(1)
		panic(http.ErrAbortHandler)
	case "header":
		w.WriteHeader(http.StatusOK)
		return http.NewResponseController(w).Flush()
	case "write":
		// more than any buffer below holds
		_, err := w.Write(make([]byte, 1<<20))
		return err
	case "read_from":
		_, err := w.(io.ReaderFrom).ReadFrom(strings.NewReader(strings.Repeat("x", 1<<20)))
		return err
	case "hijack":
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = io.WriteString(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhijacked")
		return err
	case "flush":
		return http.NewResponseController(w).Flush()
	}
	return nil
}
