package caddytest

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(Handler{})
	httpcaddyfile.RegisterHandlerDirective("test", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		h.Next()
		t := new(Handler)
		if !h.AllArgs(&t.Do) {
			return nil, h.ArgErr()
		}
		return t, nil
	})
	httpcaddyfile.RegisterDirectiveOrder("test", httpcaddyfile.Before, "respond")
}

// Handler does things that a proxy can't be made to do. In a Caddyfile:
//
//	test panic|silent|header|write|read_from|flush|hijack|switch|switch_and_write
type Handler struct {
	Do string `json:"do"`
}

// Panics counts how often the handler `test panic` was called.
var Panics atomic.Int32

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.test", New: func() caddy.Module { return new(Handler) }}
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (h Handler) ServeHTTP(w http.ResponseWriter, _ *http.Request, _ caddyhttp.Handler) error {
	const large = 1 << 20 // more than any buffer below holds
	switch h.Do {
	case "panic":
		Panics.Add(1)
		panic(http.ErrAbortHandler)
	case "header":
		w.WriteHeader(http.StatusOK)
		return http.NewResponseController(w).Flush()
	case "write":
		_, err := w.Write(make([]byte, large))
		return err
	case "read_from":
		_, err := w.(io.ReaderFrom).ReadFrom(strings.NewReader(strings.Repeat("x", large)))
		return err
	case "flush":
		return http.NewResponseController(w).Flush()
	case "switch":
		w.WriteHeader(http.StatusSwitchingProtocols)
	case "switch_and_write":
		w.WriteHeader(http.StatusSwitchingProtocols)
		_, _ = io.WriteString(w, "no HTTP any more")
		_, _ = w.(io.ReaderFrom).ReadFrom(strings.NewReader("nor here"))
		_ = http.NewResponseController(w).Flush()
	case "hijack":
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = io.WriteString(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhijacked")
		return err
	}
	return nil
}
