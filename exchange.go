package instantapi

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/cespare/xxhash/v2"
	"github.com/instantapi/caddy-instantapi-verify/internal/body"
	"github.com/instantapi/caddy-instantapi-verify/internal/ledger"
	"github.com/instantapi/caddy-instantapi-verify/store"
)

// exchange is one request that a handler is working on, with all that the
// handler learns about it.
type exchange struct {
	handler  *Handler
	writer   http.ResponseWriter
	request  *http.Request
	incoming io.Reader // the request's body as it arrives
	next     caddyhttp.Handler
	inFront  *exchange // of a guard in front that forwards this request; nil: none
	event

	body       *body.Body // nil until it has been read
	outgoing   *body.Outgoing
	bodyNeeded bool // the body may still be read after the handler has returned

	bodyHash uint64 // tells a changed repeat from an identical one
	id       store.Identity
	claim    *ledger.Claim // nil: nothing is recorded

	unprotected bool // the store can't say whether the event was delivered before
}

func newExchange(h *Handler, w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) *exchange {
	x := &exchange{handler: h, writer: w, request: r, next: next}
	x.incoming = r.Body
	x.inFront, _ = r.Context().Value(guardCtxKey{}).(*exchange)
	x.publish(r)
	return x
}

// end counts the request and releases its body.
func (x *exchange) end() {
	x.count()
	if x.body != nil && !x.bodyNeeded {
		x.body.Release()
	}
}

// readBody reads the whole body, of at most limit bytes, and replaces the
// request's body with one that the next handlers can read from its beginning.
func (x *exchange) readBody(limit int64) (err error) {
	r := x.request
	if x.body, err = body.Read(r, limit); err != nil {
		r.Body = body.Failed{Err: err} // the unread rest must not pass for the whole body
		return err
	}
	x.size = len(x.body.Bytes())
	x.setBody(x.body.Outgoing())
	r.ContentLength = int64(x.size)
	r.TransferEncoding = nil
	r.Header["Content-Length"] = []string{strconv.Itoa(x.size)} // FastCGI reads it here
	delete(r.Header, "Expect")                                  // the body has arrived
	return nil
}

func (x *exchange) setBody(b *body.Outgoing) {
	x.outgoing = b
	x.request.Body, x.request.GetBody = b, b.Again
}

// claimEvent asks the ledger for the right to deliver the event, and keeps it
// in the exchange. It returns what [ledger.Ledger.Claim] does.
func (x *exchange) claimEvent(events *ledger.Ledger) (before *ledger.Earlier, err error) {
	x.bodyHash = xxhash.Sum64(x.body.Bytes())
	wait := time.Duration(*x.handler.InFlightWait)
	ctx := x.request.Context()
	if ctx.Err() != nil { // the sender hung up before this error route took over
		ctx = context.WithoutCancel(ctx)
	}
	x.claim, before, err = events.Claim(ctx, x.id, wait)
	return before, err
}

// guardCtxKey is the context key of the exchange of the guard that forwards a
// request. A second guard behind that one, as in an error route, reads it.
type guardCtxKey struct{}

// claimedInFront reports whether a guard in front of this one holds the claim on
// the event. This one must not wait for that claim to end.
func (x *exchange) claimedInFront() bool {
	return x.inFront != nil && x.inFront.claim != nil && x.inFront.id == x.id
}
