// Package naive is the obvious first version: verify, look up, forward, write
// one synced record per request. It is a yardstick and not for use: it forwards
// an event twice if two requests bring it at the same time.
package naive

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/dgraph-io/badger/v4"
)

func init() {
	caddy.RegisterModule(Handler{})
	httpcaddyfile.RegisterHandlerDirective("naive_verify", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		handler := new(Handler)
		return handler, handler.UnmarshalCaddyfile(h.Dispenser)
	})
	httpcaddyfile.RegisterDirectiveOrder("naive_verify", httpcaddyfile.Before, "basic_auth")
}

// Handler verifies events and drops those that it has recorded.
type Handler struct {
	Secret string `json:"secret"` // required
	Path   string `json:"path"`   // directory of the records; required

	db *badger.DB
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.naive_verify",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision opens the database.
func (h *Handler) Provision(caddy.Context) (err error) {
	h.db, err = badger.Open(badger.DefaultOptions(h.Path).WithSyncWrites(true).WithLogger(nil))
	return err
}

// Cleanup closes the database.
func (h *Handler) Cleanup() error {
	if h.db == nil {
		return nil
	}
	return h.db.Close()
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return caddyhttp.Error(http.StatusBadRequest, err)
	}
	mac := hmac.New(sha256.New, []byte(h.Secret))
	mac.Write(body)
	claimed, err := hex.DecodeString(r.Header.Get("X-InstantAPI-Signature"))
	if err != nil || !hmac.Equal(claimed, mac.Sum(nil)) {
		return caddyhttp.Error(http.StatusUnauthorized, errors.New("signature matches no secret"))
	}
	var event struct {
		Type   string `json:"event_type"`
		TaskID string `json:"task_id"`
	}
	if err := json.Unmarshal(body, &event); err != nil {
		return caddyhttp.Error(http.StatusBadRequest, err)
	}
	key := []byte(event.Type + " " + event.TaskID)
	err = h.db.View(func(txn *badger.Txn) error {
		_, err := txn.Get(key)
		return err
	})
	if err == nil {
		_, err = io.WriteString(w, `{"received": true, "duplicate": true}`)
		return err
	}
	if !errors.Is(err, badger.ErrKeyNotFound) {
		return err
	}

	// The answer is held back until the event is recorded.
	r.Body = io.NopCloser(bytes.NewReader(body))
	answer := caddyhttp.NewResponseRecorder(w, new(bytes.Buffer), func(int, http.Header) bool { return true })
	if err := next.ServeHTTP(answer, r); err != nil {
		return err
	}
	if answer.Status() < 200 || answer.Status() > 299 {
		return answer.WriteResponse()
	}
	if err := h.db.Update(func(txn *badger.Txn) error { return txn.Set(key, nil) }); err != nil {
		return err
	}
	return answer.WriteResponse()
}

// UnmarshalCaddyfile reads the directive:
//
//	naive_verify <secret> <directory>
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	if !d.AllArgs(&h.Secret, &h.Path) {
		return d.ArgErr()
	}
	return nil
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
	_ caddyfile.Unmarshaler       = (*Handler)(nil)
)
