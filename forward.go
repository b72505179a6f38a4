package instantapi

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/instantapi/caddy-instantapi-verify/store"
	"go.uber.org/zap"
)

// forward hands the event to the next handlers and, if they accept it, records
// the delivery before the sender learns of it. Without a claim there is nothing
// to record. The answer is nil where the next handlers have given one.
func (x *exchange) forward() (*answer, error) {
	// The sender's hanging up must not end the delivery: what the backend has
	// accepted would not be remembered, and would be forwarded again.
	timeout := time.Duration(x.handler.ForwardTimeout)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(x.request.Context()), timeout)
	defer cancel()
	ctx = x.withClaim(ctx)

	x.outcome = outcomeForwarded // for the routes behind; the backend may still refuse
	dw := &deliveryWriter{ResponseWriterWrapper: caddyhttp.ResponseWriterWrapper{ResponseWriter: x.writer}, exchange: x}
	defer func() { // deferred, for handlers that panic
		if dw.accepted() {
			return
		}
		x.outcome = outcomeUpstreamFailed
		if x.claim != nil {
			x.claim.Release()
		}
	}()

	err := x.next.ServeHTTP(dw, x.request.WithContext(ctx))
	if err == nil && dw.status == 0 {
		return x.endUnanswered(dw)
	}
	if !dw.accepted() {
		x.outcome = outcomeUpstreamFailed
		x.backendStatus = dw.status
		x.logLimited(outcomeUpstreamFailed, zap.WarnLevel, "event was not accepted; it is forwarded again when it is sent again", err)
	}
	return nil, err
}

// withoutStore is for a new event that the store can't say anything about. It
// has a claim if only the lookup failed.
func (x *exchange) withoutStore(cause error) (*answer, error) {
	if x.handler.OnStoreError == onStoreErrorForward {
		x.logLimited(outcomeStore, zap.ErrorLevel, "store fails: forwarding an event that may have been delivered before", cause)
		x.request.Header.Set(headerDeduplicated, "false")
		return x.forward()
	}
	if x.claim != nil {
		x.claim.Release()
	}
	return answerStore, cause
}

// isUnhandled reports whether the request went past all handlers.
func isUnhandled(r *http.Request) bool {
	unhandled, _ := caddyhttp.GetVar(r.Context(), "unhandled").(bool)
	return unhandled
}

// endUnanswered is for a delivery that no handler wrote an answer to.
func (x *exchange) endUnanswered(dw *deliveryWriter) (*answer, error) {
	if isUnhandled(x.request) {
		// Caddy would answer 200, and the sender would take the event for
		// delivered, though nobody has got it.
		return answerNoBackend,
			errors.New("no handler took the event: is there a reverse_proxy behind instantapi_verify that matches it?")
	}
	dw.WriteHeader(http.StatusOK) // as net/http does
	return nil, nil
}

// record remembers that the backend accepted the event.
func (x *exchange) record(status int) {
	x.backendStatus = status
	log := x.handler.log
	if x.claim != nil {
		if err := x.claim.Delivered(x.handler.newRecord(x.bodyHash, status)); err != nil {
			log.Error("event was delivered, but could not be recorded; until it can be, only this process knows",
				x.describe(err)...)
		}
	}
	if checked := log.Check(zap.DebugLevel, "event forwarded"); checked != nil {
		checked.Write(x.describe(nil)...)
	}
}

// now is the clock. Retention follows it: set forward, it ends the remembering
// of events early by as much as it was set; set back, late. What expired while it
// was ahead is gone for good once its disk space was given back.
var now = time.Now

func (h *Handler) newRecord(bodyHash uint64, status int) store.Record {
	rec := store.Record{DeliveredAt: now(), Status: status, BodyHash: bodyHash}
	if h.Retention != Forever {
		// Rounded up, because a record expires at the beginning of a second.
		rec.ExpiresAt = rec.DeliveredAt.Add(time.Duration(h.Retention) + time.Second - 1).Truncate(time.Second)
	}
	return rec
}

// deliveryWriter passes an answer on as it comes, but tells of a success before
// it lets it out.
type deliveryWriter struct {
	caddyhttp.ResponseWriterWrapper
	exchange *exchange
	status   int // 0 until there is a final one
}

func (w *deliveryWriter) accepted() bool { return w.status >= 200 && w.status <= 299 }

// WriteHeader implements http.ResponseWriter.
func (w *deliveryWriter) WriteHeader(status int) {
	final := status >= 200 || status == http.StatusSwitchingProtocols
	if final && w.status == 0 {
		w.status = status
		if w.accepted() && isUnhandled(w.exchange.request) {
			// "templates" and others make an answer of what nobody answered.
			w.status, status = http.StatusBadGateway, http.StatusBadGateway
		}
		if w.accepted() {
			w.exchange.record(status)
		}
	}
	w.ResponseWriterWrapper.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *deliveryWriter) Write(p []byte) (int, error) {
	w.implyHeader()
	return w.ResponseWriterWrapper.Write(p)
}

// ReadFrom implements io.ReaderFrom.
func (w *deliveryWriter) ReadFrom(r io.Reader) (int64, error) {
	w.implyHeader()
	return w.ResponseWriterWrapper.ReadFrom(r)
}

// FlushError is what http.ResponseController calls; without it the flush would
// go past this writer and let an answer out.
func (w *deliveryWriter) FlushError() error {
	w.implyHeader()
	return http.NewResponseController(w.ResponseWriter).Flush() //nolint:bodyclose
}

// Hijack is what http.ResponseController calls. Who takes the connection has not
// said that it took the event.
func (w *deliveryWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack() //nolint:bodyclose
	if err == nil && w.status == 0 {
		w.status = http.StatusSwitchingProtocols
	}
	return conn, rw, err
}

func (w *deliveryWriter) implyHeader() {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
}

// Interface guards
var (
	_ http.ResponseWriter = (*deliveryWriter)(nil)
	_ io.ReaderFrom       = (*deliveryWriter)(nil)
	_ http.Hijacker       = (*deliveryWriter)(nil)
)
