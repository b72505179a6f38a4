package instantapi

import (
	"errors"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/instantapi/caddy-instantapi-verify/internal/body"
	"github.com/instantapi/caddy-instantapi-verify/internal/ledger"
	"github.com/instantapi/caddy-instantapi-verify/signature"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// answer is what a request is told that does not reach the backend.
type answer struct {
	status  int
	outcome *outcome
	body    string
	message string // for the log; the body is the same for every cause
	level   zapcore.Level
}

// What can become of a request.
var (
	outcomeForwarded      = newOutcome("forwarded")
	outcomeUpstreamFailed = newOutcome("upstream_failed")
	outcomeDuplicate      = newOutcome("duplicate")
	outcomeChanged        = newOutcome("duplicate_changed")
	outcomeWaited         = newOutcome("waited") // and then a duplicate
	outcomeInFlight       = newOutcome("in_flight_timeout")
	outcomeMethod         = newOutcome("method")
	outcomeTooLarge       = newOutcome("too_large")
	outcomeIncomplete     = newOutcome("incomplete")
	outcomeJSON           = newOutcome("bad_json")
	outcomeStore          = newOutcome("store_error")
	outcomeVerification   = newOutcome("verification_request")

	outcomesOfSignature = map[error]*outcome{
		signature.ErrMissing:   newBadSignature("missing"),
		signature.ErrRepeated:  newBadSignature("repeated"),
		signature.ErrMalformed: newBadSignature("malformed"),
		signature.ErrMismatch:  newBadSignature("mismatch"),
	}
)

var (
	answerVerification = answer{http.StatusOK, outcomeVerification, `{"received": true}`,
		"verification request answered", zap.InfoLevel}
	answerDuplicate = answer{http.StatusOK, outcomeDuplicate, `{"received": true, "duplicate": true}`,
		"duplicate dropped", zap.InfoLevel}
	answerWaited = answer{http.StatusOK, outcomeWaited, `{"received": true, "duplicate": true}`,
		"duplicate dropped, after it had waited for the delivery", zap.InfoLevel}
	answerChanged = answer{http.StatusOK, outcomeChanged, `{"received": true, "duplicate": true}`,
		"duplicate dropped, though its bytes differ from the delivered event's", zap.WarnLevel}
	answerMethod = answer{http.StatusMethodNotAllowed, outcomeMethod, `{"error": "Method not allowed"}`,
		"request refused", zap.WarnLevel}
	answerTooLarge = answer{http.StatusRequestEntityTooLarge, outcomeTooLarge, `{"error": "Body too large"}`,
		"request refused", zap.WarnLevel}
	answerIncomplete = answer{http.StatusBadRequest, outcomeIncomplete, `{"error": "Incomplete body"}`,
		"request refused", zap.WarnLevel}
	answerTooSlow = answer{http.StatusRequestTimeout, outcomeIncomplete, `{"error": "Request timeout"}`,
		"request refused", zap.WarnLevel}
	answerJSON = answer{http.StatusBadRequest, outcomeJSON, `{"error": "Invalid JSON"}`,
		"request refused", zap.WarnLevel}
	answerInFlight = answer{http.StatusServiceUnavailable, outcomeInFlight, `{"error": "Delivery in progress"}`,
		"event is still being delivered by another request", zap.WarnLevel}
	answerStore = answer{http.StatusServiceUnavailable, outcomeStore, `{"error": "Store unavailable"}`,
		"store fails: event refused", zap.ErrorLevel}
	answerNoBackend = answer{http.StatusBadGateway, outcomeUpstreamFailed, `{"error": "No backend"}`,
		"event was not accepted", zap.ErrorLevel}
)

// answerForSignature returns what to say to a sender whose signature is bad: the
// same for each of the reasons.
func answerForSignature(err error) answer {
	return answer{http.StatusUnauthorized, outcomesOfSignature[err], `{"error": "Invalid signature"}`,
		"request refused", zap.WarnLevel}
}

// answerForReadError returns what to say to a sender whose body did not arrive.
func answerForReadError(err error) answer {
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge || errors.Is(err, body.ErrTooLarge) {
		return answerTooLarge
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return answerTooSlow
	}
	return answerIncomplete
}

// acknowledge answers for an event that was delivered before.
func (h *Handler) acknowledge(w http.ResponseWriter, r *http.Request, ev *event, before *ledger.Earlier) error {
	if before.BodyHash != ev.bodyHash {
		return h.answer(w, r, ev, answerChanged, nil)
	}
	if before.Waited {
		return h.answer(w, r, ev, answerWaited, nil)
	}
	return h.answer(w, r, ev, answerDuplicate, nil)
}

// answer ends a request without the backend. A site with error routes gets to
// say it in its own words.
func (h *Handler) answer(w http.ResponseWriter, r *http.Request, ev *event, a answer, cause error) error {
	ev.outcome = a.outcome
	h.logLimited(a.outcome, a.level, a.message, r, ev, cause)
	if a.status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", retryAfter)
	}
	if !ev.bodyRead {
		answerBeforeBody(w, r)
	}
	if a.status >= 400 && hasErrorRoute(r, a.status, cause) {
		return caddyhttp.Error(a.status, cause)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(a.status)
	_, _ = io.WriteString(w, a.body) // nobody is left to tell if this fails
	return nil
}

// maxDrain is how much of a body it is worth reading only to be able to use the
// connection again; the same as net/http's.
const maxDrain = 256 << 10

// answerBeforeBody lets an answer out although the body is not read. By itself
// net/http waits for up to 256 KiB of it before it answers, as long as the sender
// likes, and even asks for it with "100 Continue": Caddy wraps the body, and
// that hides from net/http what kind it is.
func answerBeforeBody(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor != 1 || r.ContentLength == 0 {
		return
	}
	if r.ContentLength > maxDrain || r.Header.Get("Expect") != "" {
		w.Header().Set("Connection", "close")
		return
	}
	// What was sent along with the header is here by then.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(500 * time.Millisecond))
}

// hasErrorRoute reports whether the request's site has error routes. They are
// the server's, each with the site's own matcher in front.
func hasErrorRoute(r *http.Request, status int, cause error) bool {
	server, ok := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok || server.Errors == nil {
		return false
	}
	r = server.Errors.WithError(r, caddyhttp.Error(status, cause)) // the matcher may ask for the status
	for _, route := range server.Errors.Routes {
		if matches, err := route.MatcherSets.AnyMatchWithError(r); err == nil && matches {
			return true
		}
	}
	return false
}
