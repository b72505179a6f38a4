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
	"go.uber.org/zap"
)

// forward hands the event to the next handlers and, if they accept it, records
// the delivery before the sender learns of it. Without a claim there is nothing
// to record. The answer is nil if the next handlers wrote one.
func (x *exchange) forward() (*answer, error) {
	// The delivery goes on when the sender hangs up: otherwise an event that
	// the backend accepts would not be recorded, and would be forwarded again.
	timeout := time.Duration(x.handler.ForwardTimeout)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(x.request.Context()), timeout)
	defer cancel()
	if x.claim != nil || x.unprotected {
		ctx = context.WithValue(ctx, guardCtxKey{}, x)
	}
	ctx = httptrace.WithClientTrace(ctx, x.outgoing.Trace(cancel))

	caddyhttp.SetVar(ctx, varUnhandled, nil) // it is set if this is an error route

	x.outcome = outcomeForwarded // for the next handlers; the backend may still refuse
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
		x.logLimited(zap.WarnLevel, notAccepted, err)
	}
	return nil, err
}

// withoutStore handles an event of which the store can't say whether it was
// delivered before. The exchange has a claim if only the lookup failed.
func (x *exchange) withoutStore(cause error) (*answer, error) {
	x.markUnprotected()
	if x.handler.OnStoreError == onStoreErrorForward {
		x.outcome = outcomeForwarded // as in forward, for the line
		x.logLimited(zap.ErrorLevel, "store fails: forwarding an event that may have been delivered before", cause)
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
			log.Error("event was delivered, but could not be recorded; until it can be, only this process remembers it",
				x.describe(err)...)
		}
	}
	if checked := log.Check(zap.DebugLevel, "event forwarded"); checked != nil {
		checked.Write(x.describe(nil)...)
	}
}

// deliveryWriter records a delivery before it releases the 2xx answer.
type deliveryWriter struct {
	caddyhttp.ResponseWriterWrapper
	exchange *exchange
	status   int   // 0 until a final one is written
	withheld error // why a status that was written is not passed on; nil: none
}

func (w *deliveryWriter) accepted() bool { return w.status >= 200 && w.status <= 299 }

// statusHungUp is what reverse_proxy writes when the request's context has been
// canceled. It reaches no sender, only logs.
const statusHungUp = 499

// errSwitched is returned to a handler that goes on writing after a 101.
var errSwitched = errors.New("a webhook's connection can't be switched to another protocol")

// WriteHeader implements http.ResponseWriter.
func (w *deliveryWriter) WriteHeader(status int) {
	if status == http.StatusSwitchingProtocols {
		w.withheld = errSwitched
		return
	}
	if err := w.exchange.outgoing.Err(); err != nil && status == statusHungUp {
		w.withheld = err // the guard ended the attempt, not the sender
		return
	}
	if status >= 200 && w.status == 0 {
		w.status = status
		if w.accepted() && isUnhandled(w.exchange.request) {
			// Handlers such as templates write a 200 even if no handler
			// answered.
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
// bypass this writer and release an answer before it is recorded.
func (w *deliveryWriter) FlushError() error {
	if err := w.implyHeader(); err != nil {
		return err
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Hijack is what http.ResponseController calls. No handler gets the sender's
// connection: what goes through it then would bypass the guard.
func (w *deliveryWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return nil, nil, fmt.Errorf("%w: %w", http.ErrNotSupported, errSwitched)
}

// implyHeader writes the status 200 if the answer begins without a status, as
// net/http does.
func (w *deliveryWriter) implyHeader() error {
	if w.status != 0 {
		return nil
	}
	if w.withheld != nil {
		return w.withheld
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// answerInstead returns the answer to a delivery that the next handlers ended
// without one. Otherwise net/http would answer 200, and the sender would take
// the event for delivered.
func (w *deliveryWriter) answerInstead() (*answer, error) {
	switch {
	case isUnhandled(w.exchange.request):
		return answerNoBackend, errUnhandled
	case w.exchange.outgoing.Err() != nil:
		return answerNoAnswer, w.exchange.outgoing.Err()
	case errors.Is(w.withheld, errSwitched):
		for _, name := range switchingHeaders {
			w.Header().Del(name)
		}
		return answerNoAnswer, errSwitching
	default:
		return answerNoAnswer, errSilent
	}
}

// Reasons why there is no answer.
var (
	errUnhandled = errors.New("no handler took the event: is there a reverse_proxy behind instantapi_verify that matches it?")
	errSwitching = errors.New("the next handler answered 101 Switching Protocols, which was not asked for")
	errSilent    = errors.New("the next handler ended without an answer, as reverse_proxy does when a backend answers 101 Switching Protocols")
)

// switchingHeaders are what a handler that writes a 101 may have left in the
// header of the answer that replaces it.
var switchingHeaders = []string{
	"Connection", "Content-Encoding", "Content-Length", "Content-Type", "Sec-Websocket-Accept",
	"Sec-Websocket-Extensions", "Sec-Websocket-Protocol", "Trailer", "Transfer-Encoding", "Upgrade",
}

// varUnhandled is the variable that Caddy sets for a request that no handler
// answered.
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
