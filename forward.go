package instantapi

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
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
	if x.claim != nil || x.unprotected {
		ctx = context.WithValue(ctx, guardCtxKey{}, x)
	}
	ctx = httptrace.WithClientTrace(ctx, x.outgoing.Trace(cancel))

	caddyhttp.SetVar(ctx, varUnhandled, nil) // it is set where an error route took over

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
	if dw.status == 0 && (err == nil || x.outgoing.Err() != nil) {
		return dw.answerInstead()
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
	x.markUnprotected()
	if x.handler.OnStoreError == onStoreErrorForward {
		x.logLimited(outcomeStore, zap.ErrorLevel, "store fails: forwarding an event that may have been delivered before", cause)
		return x.forward()
	}
	if x.claim != nil {
		x.claim.Release()
	}
	return answerStore, cause
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

// deliveryWriter records a delivery before it lets the answer of 2xx out.
type deliveryWriter struct {
	caddyhttp.ResponseWriterWrapper
	exchange *exchange
	status   int  // 0 until there is a final one
	switched bool // a 101 was written, which is not let out
}

func (w *deliveryWriter) accepted() bool { return w.status >= 200 && w.status <= 299 }

// statusHungUp is not sent to anybody, but logged.
const statusHungUp = 499

// errSwitched is for a handler that goes on after a 101.
var errSwitched = errors.New("a webhook's connection is not switched to another protocol")

// WriteHeader implements http.ResponseWriter.
func (w *deliveryWriter) WriteHeader(status int) {
	if status == http.StatusSwitchingProtocols {
		w.switched = true
		return
	}
	if status == statusHungUp && w.exchange.outgoing.Err() != nil {
		return // the attempt was ended, but not by the sender
	}
	if status >= 200 && w.status == 0 {
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
	if err := w.implyHeader(); err != nil {
		return 0, err
	}
	return w.ResponseWriterWrapper.Write(p)
}

// ReadFrom implements io.ReaderFrom.
func (w *deliveryWriter) ReadFrom(r io.Reader) (int64, error) {
	if err := w.implyHeader(); err != nil {
		return 0, err
	}
	return w.ResponseWriterWrapper.ReadFrom(r)
}

// FlushError is what http.ResponseController calls; without it the flush would
// go past this writer and let an answer out.
func (w *deliveryWriter) FlushError() error {
	if err := w.implyHeader(); err != nil {
		return err
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Hijack is what http.ResponseController calls. Nobody gets the sender's
// connection: what goes through it then would get around the guard.
func (w *deliveryWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return nil, nil, fmt.Errorf("%w: %w", http.ErrNotSupported, errSwitched)
}

// implyHeader writes the header of an answer that begins without one, as net/http
// does.
func (w *deliveryWriter) implyHeader() error {
	if w.status != 0 {
		return nil
	}
	if w.switched {
		return errSwitched
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// answerInstead returns the answer for a delivery that the next handlers have
// ended without one. Left alone, net/http would say 200, and the sender would take
// the event for delivered.
func (w *deliveryWriter) answerInstead() (*answer, error) {
	switch {
	case isUnhandled(w.exchange.request):
		return answerNoBackend, errUnhandled
	case w.exchange.outgoing.Err() != nil:
		return answerNoAnswer, w.exchange.outgoing.Err()
	case w.switched:
		for _, name := range switchingHeaders {
			w.Header().Del(name)
		}
		return answerNoAnswer, errSwitching
	default:
		return answerNoAnswer, errSilent
	}
}

// Why there is no answer.
var (
	errUnhandled = errors.New("no handler took the event: is there a reverse_proxy behind instantapi_verify that matches it?")
	errSwitching = errors.New("the next handler answered 101 Switching Protocols, which nobody had asked for")
	errSilent    = errors.New("the next handler ended without an answer, as reverse_proxy does when a backend answers 101 Switching Protocols")
)

// switchingHeaders are what a 101 may have put into the header of the answer that
// takes its place.
var switchingHeaders = []string{
	"Connection", "Content-Encoding", "Content-Length", "Content-Type", "Sec-Websocket-Accept",
	"Sec-Websocket-Extensions", "Sec-Websocket-Protocol", "Trailer", "Transfer-Encoding", "Upgrade",
}

// varUnhandled is the variable that Caddy sets for a request that went past all
// handlers.
const varUnhandled = "unhandled"

func isUnhandled(r *http.Request) bool {
	unhandled, _ := caddyhttp.GetVar(r.Context(), varUnhandled).(bool)
	return unhandled
}

// Interface guards
var (
	_ http.ResponseWriter = (*deliveryWriter)(nil)
	_ io.ReaderFrom       = (*deliveryWriter)(nil)
	_ http.Hijacker       = (*deliveryWriter)(nil)
)
