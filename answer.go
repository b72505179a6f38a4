package instantapi

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/instantapi/caddy-instantapi-verify/internal/body"
	"github.com/instantapi/caddy-instantapi-verify/internal/ledger"
	"github.com/instantapi/caddy-instantapi-verify/signature"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// answer is the guard's own answer to a request that the next handlers did not
// get, or did not answer.
type answer struct {
	status  int
	outcome *outcome
	body    string
	message string // for the log; the body is the same for every cause
	level   zapcore.Level
}

var (
	answerProbe = &answer{http.StatusOK, outcomeProbe, `{"received": true}`,
		"verification request answered", zap.InfoLevel}
	answerDuplicate = &answer{http.StatusOK, outcomeDuplicate, `{"received": true, "duplicate": true}`,
		"duplicate dropped", zap.InfoLevel}
	answerWaited = &answer{http.StatusOK, outcomeWaited, `{"received": true, "duplicate": true}`,
		"duplicate dropped, after it had waited for the delivery", zap.InfoLevel}
	answerChanged = &answer{http.StatusOK, outcomeChanged, `{"received": true, "duplicate": true}`,
		"duplicate dropped, though its bytes differ from the delivered event's", zap.WarnLevel}
	answerMethod = &answer{http.StatusMethodNotAllowed, outcomeMethod, `{"error": "Method not allowed"}`,
		"request refused", zap.WarnLevel}
	answerTooLarge = &answer{http.StatusRequestEntityTooLarge, outcomeTooLarge, `{"error": "Body too large"}`,
		"request refused", zap.WarnLevel}
	answerIncomplete = &answer{http.StatusBadRequest, outcomeIncomplete, `{"error": "Incomplete body"}`,
		"request refused", zap.WarnLevel}
	answerTooSlow = &answer{http.StatusRequestTimeout, outcomeIncomplete, `{"error": "Request timeout"}`,
		"request refused", zap.WarnLevel}
	answerJSON = &answer{http.StatusBadRequest, outcomeJSON, `{"error": "Invalid JSON"}`,
		"request refused", zap.WarnLevel}
	answerInFlight = &answer{http.StatusServiceUnavailable, outcomeInFlight, `{"error": "Delivery in progress"}`,
		"event is still being delivered by another request", zap.WarnLevel}
	answerStore = &answer{http.StatusServiceUnavailable, outcomeStore, `{"error": "Store unavailable"}`,
		"store fails: event refused", zap.ErrorLevel}
	answerNoBackend = &answer{http.StatusBadGateway, outcomeUpstreamFailed, `{"error": "No backend"}`,
		notAccepted, zap.ErrorLevel}
	answerNoAnswer = &answer{http.StatusBadGateway, outcomeUpstreamFailed, `{"error": "No answer"}`,
		notAccepted, zap.WarnLevel}
)

// notAccepted is the log message for an event that the next handlers did not
// accept, whether or not they answered.
const notAccepted = "event was not accepted; it is forwarded again when it is sent again"

// badSignatures are the answers to requests that are not authentic. The sender
// sees the same one for each cause.
var badSignatures = []struct {
	cause  error
	answer *answer
}{
	{signature.ErrMissing, answerBadSignature(outcomeMissing)},
	{signature.ErrRepeated, answerBadSignature(outcomeRepeated)},
	{signature.ErrMalformed, answerBadSignature(outcomeMalformed)},
	{signature.ErrMismatch, answerBadSignature(outcomeMismatch)},
}

func answerBadSignature(o *outcome) *answer {
	return &answer{http.StatusUnauthorized, o, `{"error": "Invalid signature"}`,
		"request refused", zap.WarnLevel}
}

// answerForSignature returns the answer to a request whose signature is bad.
func answerForSignature(err error) *answer {
	for _, bad := range badSignatures {
		if errors.Is(err, bad.cause) {
			return bad.answer
		}
	}
	return badSignatures[len(badSignatures)-1].answer
}

// answerForReadError returns the answer to a request whose body could not be
// read.
func answerForReadError(err error) *answer {
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge || errors.Is(err, body.ErrTooLarge) {
		return answerTooLarge
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return answerTooSlow
	}
	return answerIncomplete
}

// answerForRepeat returns the answer to an event that was delivered before.
func (x *exchange) answerForRepeat(before *ledger.Earlier) *answer {
	if before.BodyHash != x.bodyHash {
		return answerChanged
	}
	if before.Waited {
		return answerWaited
	}
	return answerDuplicate
}

// methodError is the error of a request whose method is not POST.
type methodError string

func (method methodError) Error() string { return fmt.Sprintf("method %q is not POST", string(method)) }

// allowedMethods is the value of the Allow header of a 405.
func (h *Handler) allowedMethods() string {
	if h.AnswerVerificationRequests {
		return "GET, HEAD, POST"
	}
	return http.MethodPost
}

// retryAfter is how many seconds a sender should wait before it sends an event
// again that can't be delivered now.
const retryAfter = "5"

// answer ends a request with an answer of the guard. If the site has an error
// route for an answer, that route writes it instead.
func (x *exchange) answer(a *answer, cause error) error {
	x.outcome = a.outcome
	x.logLimited(a.level, a.message, cause)
	header := x.writer.Header()
	switch a.status {
	case http.StatusServiceUnavailable:
		header.Set("Retry-After", retryAfter)
	case http.StatusMethodNotAllowed:
		header.Set("Allow", x.handler.allowedMethods())
	}
	early := x.answersEarly()
	if early {
		beginEarlyAnswer(x.writer)
	}
	if err := caddyhttp.Error(a.status, cause); a.status >= 400 && hasErrorRoute(x.request, err) {
		if early {
			closeSoftly(x.writer) // once the error route has answered
		}
		return err
	}
	header.Set("Content-Type", "application/json")
	header.Set("Content-Length", strconv.Itoa(len(a.body))) // so that the sender knows where the body ends
	x.writer.WriteHeader(a.status)
	_, _ = io.WriteString(x.writer, a.body) // if this fails, the client has gone
	if early {
		x.linger()
	}
	return nil
}
