package instantapi

import (
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/cespare/xxhash/v2"
	"github.com/instantapi/caddy-instantapi-verify/internal/body"
	"github.com/instantapi/caddy-instantapi-verify/internal/ledger"
	"github.com/instantapi/caddy-instantapi-verify/store"
)

// exchange is one request on its way through a handler, with all that the handler
// learns about it.
type exchange struct {
	handler *Handler
	writer  http.ResponseWriter
	request *http.Request
	next    caddyhttp.Handler
	inFront *exchange // of a guard that forwards the same request; nil: there is none
	event

	body     *body.Body // nil until it has been read
	bodyHash uint64     // tells a changed repeat from a true one
	id       store.Identity
	claim    *ledger.Claim // nil: nothing is recorded

	unprotected bool // the store can't say whether the event was delivered before
}

func newExchange(h *Handler, w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) *exchange {
	x := &exchange{handler: h, writer: w, request: r, next: next}
	x.inFront, _ = r.Context().Value(guardCtxKey{}).(*exchange)
	x.publish(r)
	return x
}

// end counts the request and lets go of its body.
func (x *exchange) end() {
	x.count()
	if x.body != nil {
		x.body.Release()
	}
}

// readBody reads the whole body, which may have this many bytes.
func (x *exchange) readBody(limit int64) (err error) {
	if x.body, err = body.Read(x.request, limit); err != nil {
		return err
	}
	x.size = len(x.body.Bytes())
	return nil
}

// claimEvent asks the ledger for the right to deliver the event, which the
// exchange then has. See [ledger.Ledger.Claim] for what it returns.
func (x *exchange) claimEvent(events *ledger.Ledger) (before *ledger.Earlier, err error) {
	x.bodyHash = xxhash.Sum64(x.body.Bytes())
	wait := time.Duration(*x.handler.InFlightWait)
	x.claim, before, err = events.Claim(x.request.Context(), x.id, wait)
	return before, err
}

// guardCtxKey is where a request has the exchange of the guard that forwards it,
// for a second guard behind that one.
type guardCtxKey struct{}

// isClaimed reports whether a guard in front of this one holds the claim on the
// event, so that this one must not wait for its end.
func (x *exchange) isClaimed() bool {
	return x.inFront != nil && x.inFront.claim != nil && x.inFront.id == x.id
}
