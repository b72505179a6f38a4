// Package instantapi is a Caddy module that lets only authentic, whole and new
// InstantAPI webhook events through to a backend.
//
// The way of a request is [Handler.ServeHTTP]: read the raw body, check its
// HMAC-SHA256, claim the event, forward it, record the delivery.
package instantapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/cespare/xxhash/v2"
	"github.com/instantapi/caddy-instantapi-verify/internal/body"
	"github.com/instantapi/caddy-instantapi-verify/internal/ledger"
	"github.com/instantapi/caddy-instantapi-verify/signature"
	"github.com/instantapi/caddy-instantapi-verify/store"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

func init() {
	caddy.RegisterModule(Handler{})
}

// Handler guards a webhook endpoint for events of InstantAPI. A request comes
// through to the next handler only if its body is signed with one of the
// secrets, and if its event has not been delivered before. An event counts as
// delivered when the next handlers answer with a status of 2xx; that is recorded
// in the store of the app `instantapi_verify` before the answer goes out.
//
// The next handlers get the body byte for byte, and three request headers:
// `X-InstantAPI-Verified: true`, `Idempotency-Key` with the identity of the event
// and, where the store could not be asked, `X-InstantAPI-Deduplicated: false`.
//
// It sets these placeholders, and access log fields of the same names under
// `instantapi_verify`:
//
// Placeholder | Description
// ------------|-------------
// `{http.instantapi_verify.event_type}` | The event's `event_type`
// `{http.instantapi_verify.task_id}` | The event's `task_id`
// `{http.instantapi_verify.status}` | The event's `status`
// `{http.instantapi_verify.outcome}` | What became of the request: `forwarded`, `duplicate`, `bad_signature`, ...
//
// The first three are empty until the signature is verified.
type Handler struct {
	// The webhook secrets. An event signed with any of them is authentic; give
	// the old and the new one while you rotate. The placeholders `{env.*}` and
	// `{file.*}` are replaced when the config loads, which fails where one is
	// unset, empty or unreadable. Required.
	Secrets []string `json:"secrets,omitempty"`

	// The request header that carries the signature: 64 hex digits, with an
	// optional `sha256=` in front. Default: `X-InstantAPI-Signature`.
	SignatureHeader string `json:"signature_header,omitempty"`

	// The largest body in bytes; more is answered with 413. Default: 4194304
	// (4 MiB).
	MaxBodySize int64 `json:"max_body_size,omitempty"`

	// Whether to answer the request with which the sender tests that a newly
	// registered endpoint can be reached: `GET`, `HEAD`, and a `POST` without a
	// signature whose body (at most 4 KiB) holds no `task_id` get a 200. They
	// are not forwarded. Default: `false`, as a strict endpoint says 401 to
	// everything that is not signed.
	AnswerVerificationRequests bool `json:"answer_verification_requests,omitempty"`

	// Events are duplicates only within one scope, so that two endpoints each
	// get their copy. Request placeholders are allowed, but mind that a request
	// says itself what they are, and that its signature covers the body only: a
	// scope that a replayed request can choose is no defence against replays.
	// Default: `{http.request.host}{http.request.orig_uri.path}`, compared like
	// Caddy's own matchers compare them: without regard to case, doubled
	// slashes and dot segments.
	Scope string `json:"scope,omitempty"`

	// The top-level fields of the body that tell one event from another. Where
	// one is missing or empty, the whole body does. Default:
	// `["event_type", "task_id"]`.
	DedupeBy []string `json:"dedupe_by,omitempty"`

	// How long a delivered event is remembered: a duration, or `forever`. The
	// signature does not cover a time, so this is also for how long a recorded
	// request can't be replayed. Default: `720h`.
	Retention Retention `json:"retention,omitempty"`

	// How long a request waits for the outcome if another request is delivering
	// the same event; after that it is answered with 503 and `Retry-After`. 0
	// does not wait. Default: `5s`.
	InFlightWait *caddy.Duration `json:"in_flight_wait,omitempty"`

	// How long a delivery may take. It goes on when the sender hangs up, so
	// that the success of a slow backend is remembered. Default: `2m`.
	ForwardTimeout caddy.Duration `json:"forward_timeout,omitempty"`

	// What to do with a new event while the store fails: `reject` answers with
	// 503 and `Retry-After`; `forward` delivers it, marked with
	// `X-InstantAPI-Deduplicated: false`. Default: `reject`.
	OnStoreError string `json:"on_store_error,omitempty"`

	// Whether to do without a store: verify and forward, duplicates and all.
	// Default: `false`.
	VerifyOnly bool `json:"verify_only,omitempty"`

	app             *App
	log             *zap.Logger
	verifier        *signature.Verifier
	signatureHeader string               // SignatureHeader as net/http spells it
	matches         []prometheus.Counter // one a secret
	fields          []string             // to be read from an event: first the placeholders', then DedupeBy
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.instantapi_verify",
		New: func() caddy.Module { return new(Handler) },
	}
}

const (
	defaultMaxBodySize    = 4 << 20
	defaultRetention      = Retention(720 * time.Hour)
	defaultInFlightWait   = caddy.Duration(5 * time.Second)
	defaultForwardTimeout = caddy.Duration(2 * time.Minute)

	onStoreErrorReject  = "reject"
	onStoreErrorForward = "forward"

	// maxVerificationRequest is the largest body of a request that may be the
	// sender's test whether the endpoint can be reached.
	maxVerificationRequest = 4 << 10

	// retryAfter is how many seconds a sender is asked to leave an event alone
	// that can't be delivered just now.
	retryAfter = "5"
)

// The headers by which the next handlers know what has been done for them.
const (
	headerVerified     = "X-Instantapi-Verified"
	headerDeduplicated = "X-Instantapi-Deduplicated"
	headerIdempotency  = "Idempotency-Key"
)

// eventFields are the fields that have a placeholder.
var eventFields = []string{"event_type", "task_id", "status"}

// Provision sets the defaults, resolves the secrets and finds the app.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.log = ctx.Logger()
	h.setDefaults()
	h.fields = append(slices.Clone(eventFields), h.DedupeBy...)

	secrets, err := resolveSecrets(h.Secrets)
	if err != nil {
		return err
	}
	if h.verifier, err = signature.NewVerifier(secrets...); err != nil {
		return fmt.Errorf("secret: %w", err)
	}
	h.signatureHeader = http.CanonicalHeaderKey(h.SignatureHeader)
	h.matches = countersOfSecrets(len(secrets))
	if err := registerMetrics(ctx); err != nil {
		return err
	}
	if h.VerifyOnly {
		return nil
	}
	app, err := ctx.App("instantapi_verify")
	if err != nil {
		return err
	}
	h.app = app.(*App)
	h.app.handlers = append(h.app.handlers, h)
	return nil
}

func (h *Handler) setDefaults() {
	if h.SignatureHeader == "" {
		h.SignatureHeader = signature.DefaultHeader
	}
	if h.MaxBodySize == 0 {
		h.MaxBodySize = defaultMaxBodySize
	}
	if h.DedupeBy == nil {
		h.DedupeBy = []string{"event_type", "task_id"}
	}
	if h.Retention == 0 {
		h.Retention = defaultRetention
	}
	if h.InFlightWait == nil {
		wait := defaultInFlightWait
		h.InFlightWait = &wait
	}
	if h.ForwardTimeout == 0 {
		h.ForwardTimeout = defaultForwardTimeout
	}
	if h.OnStoreError == "" {
		h.OnStoreError = onStoreErrorReject
	}
}

// resolveSecrets replaces the placeholders. Its errors name a secret by its
// position, and a placeholder only where it is all there is: in "{env.A}x" or
// "{x}" the rest may be the secret itself.
func resolveSecrets(secrets []string) ([]string, error) {
	repl := caddy.NewReplacer()
	var resolved []string
	for i, secret := range secrets {
		value, err := repl.ReplaceOrErr(secret, true, true)
		if err == nil {
			resolved = append(resolved, value)
			continue
		}
		name := "a placeholder in it"
		inner := strings.TrimSuffix(strings.TrimPrefix(secret, "{"), "}")
		source, _, _ := strings.Cut(inner, ".")
		if (source == "env" || source == "file") && secret == "{"+inner+"}" && !strings.ContainsAny(inner, "{}") {
			name = secret
		}
		return nil, fmt.Errorf("secret %d: %s is unset, empty, unreadable or unknown (a literal brace in a secret is written \\{)", i+1, name)
	}
	return resolved, nil
}

// Validate checks the values.
func (h *Handler) Validate() error {
	if strings.Trim(h.SignatureHeader, tokenCharacters) != "" {
		return fmt.Errorf("signature_header: %q is not a header name", h.SignatureHeader)
	}
	if h.MaxBodySize < 0 {
		return fmt.Errorf("max_body_size: %d is not a size, give a number of bytes above 0", h.MaxBodySize)
	}
	if err := checkDedupeBy(h.DedupeBy); err != nil {
		return fmt.Errorf("dedupe_by: %w", err)
	}
	if h.Retention != Forever && time.Duration(h.Retention) < time.Second {
		return fmt.Errorf("retention: %s is too short, give 1s or more, or forever", time.Duration(h.Retention))
	}
	if *h.InFlightWait < 0 {
		return fmt.Errorf("in_flight_wait: %s is below 0", time.Duration(*h.InFlightWait))
	}
	if h.ForwardTimeout < 0 {
		return fmt.Errorf("forward_timeout: %s is below 0", time.Duration(h.ForwardTimeout))
	}
	if err := checkOnStoreError(h.OnStoreError); err != nil {
		return fmt.Errorf("on_store_error: %w", err)
	}
	return nil
}

// tokenCharacters are what a header name is made of (RFC 9110, section 5.6.2).
const tokenCharacters = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

func checkOnStoreError(policy string) error {
	if policy != onStoreErrorReject && policy != onStoreErrorForward {
		return fmt.Errorf("%q is neither reject nor forward", policy)
	}
	return nil
}

func checkDedupeBy(fields []string) error {
	if len(fields) == 0 {
		return errors.New("give one field or more")
	}
	for i, field := range fields {
		if field == "" {
			return errors.New("a field's name is empty")
		}
		if slices.Contains(fields[:i], field) {
			return fmt.Errorf("field %q is there twice", field)
		}
	}
	return nil
}

// ServeHTTP is the way of a request. Each step either goes on to the next one or
// answers and ends.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	ev := newEvent(r)
	defer ev.count() // deferred, for handlers that panic

	// Before the body is read: what can be refused for free.
	signatures := r.Header[h.signatureHeader]
	if h.isVerificationRequest(r, signatures) {
		return h.answer(w, r, ev, answerVerification, nil)
	}
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", h.allowedMethods())
		return h.answer(w, r, ev, answerMethod, methodError(r.Method))
	}
	sig, err := signature.Parse(signatures)
	if err != nil {
		return h.answer(w, r, ev, answerForSignature(err), err)
	}

	// Verify the bytes as they were sent, before anything is made of them.
	body, err := body.Read(r, h.MaxBodySize)
	if err != nil {
		return h.answer(w, r, ev, answerForReadError(err), err)
	}
	defer body.Release()
	ev.size, ev.bodyRead = len(body.Bytes()), true
	if err := h.verify(body.Bytes(), sig); err != nil {
		return h.answer(w, r, ev, answerForSignature(err), err)
	}
	id, err := h.identify(r, body.Bytes(), ev)
	if err != nil {
		return h.answer(w, r, ev, answerJSON, err)
	}
	prepareForward(r, body, id)
	if h.VerifyOnly || r.Context().Value(claimedCtxKey{}) == id {
		return h.forward(w, r, next, ev, nil)
	}

	// Claim the event: from here on nobody else delivers it.
	ev.bodyHash = xxhash.Sum64(body.Bytes())
	ledger, err := h.app.acquire()
	if err != nil {
		storeErrorsOpen.Inc()
		return h.withoutStore(w, r, next, ev, nil, err)
	}
	defer h.app.release() //nolint:errcheck // the store logs why it can't close
	claim, before, err := ledger.Claim(r.Context(), id, time.Duration(*h.InFlightWait))
	switch {
	case before != nil:
		return h.acknowledge(w, r, ev, before)
	case claim == nil:
		return h.answer(w, r, ev, answerInFlight, err)
	case err != nil:
		return h.withoutStore(w, r, next, ev, claim, err)
	}
	return h.forward(w, r, next, ev, claim)
}

// verify checks the signature, and counts which secret made it.
func (h *Handler) verify(body []byte, sig signature.Signature) error {
	start := time.Now()
	secret, err := h.verifier.Verify(body, sig)
	verifySeconds.Observe(time.Since(start).Seconds())
	if err != nil {
		return err
	}
	h.matches[secret].Inc()
	return nil
}

// isVerificationRequest reports whether this is the sender's test that the
// endpoint can be reached, and is to be answered as such.
func (h *Handler) isVerificationRequest(r *http.Request, signatures []string) bool {
	if !h.AnswerVerificationRequests {
		return false
	}
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return true
	}
	if r.Method != http.MethodPost || len(signatures) > 0 {
		return false
	}
	body, err := body.Read(r, maxVerificationRequest)
	if err != nil {
		return false
	}
	defer body.Release()
	return !mentionsTask(body.Bytes())
}

// mentionsTask reports whether an unsigned body could be meant as an event,
// which must not be answered with a 200. It errs on the side of yes.
func mentionsTask(body []byte) bool {
	if bytes.Contains(body, []byte("task_id")) {
		return true
	}
	values, err := scanEvent(body, []string{"task_id"}) // for names with escapes
	return err == nil && values[0] != nil
}

// methodError is a method that is not POST.
type methodError string

func (method methodError) Error() string { return fmt.Sprintf("method %q is not POST", string(method)) }

func (h *Handler) allowedMethods() string {
	if h.AnswerVerificationRequests {
		return "GET, HEAD, POST"
	}
	return http.MethodPost
}

// prepareForward makes of the request what the next handlers get.
func prepareForward(r *http.Request, body *body.Body, id store.Identity) {
	length := len(body.Bytes())
	r.Body = body
	r.ContentLength = int64(length)
	r.TransferEncoding = nil
	r.Trailer = nil
	delete(r.Header, "Trailer")
	delete(r.Header, "Expect") // fulfilled: the body has been read
	delete(r.Header, headerDeduplicated)

	values := []string{strconv.Itoa(length), "true", id.String()} // of one header each
	r.Header["Content-Length"] = values[0:1:1]                    // FastCGI reads it here
	r.Header[headerVerified] = values[1:2:2]
	r.Header[headerIdempotency] = values[2:3:3]
}

// withoutStore is for a new event that the store can't say anything about. It
// has a claim if only the lookup failed.
func (h *Handler) withoutStore(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, ev *event, c *ledger.Claim, cause error) error {
	if h.OnStoreError == onStoreErrorForward {
		h.logLimited(outcomeStore, zap.ErrorLevel, "store fails: forwarding an event that may have been delivered before", r, ev, cause)
		r.Header.Set(headerDeduplicated, "false")
		return h.forward(w, r, next, ev, c)
	}
	if c != nil {
		c.Release()
	}
	return h.answer(w, r, ev, answerStore, cause)
}

// Retention is how long a delivered event is remembered. In JSON it is a number
// of nanoseconds, a [duration](https://caddyserver.com/docs/conventions#durations)
// like `720h` or `30d`, or `forever`.
type Retention time.Duration

// Forever is the Retention of events that are never forgotten.
const Forever Retention = -1

// ParseRetention reads a duration or "forever".
func ParseRetention(s string) (Retention, error) {
	if s == "forever" {
		return Forever, nil
	}
	d, err := caddy.ParseDuration(s)
	if err != nil {
		return 0, err
	}
	if d < time.Second {
		return 0, fmt.Errorf("%s is too short, give 1s or more, or forever", s)
	}
	return Retention(d), nil
}

// UnmarshalJSON implements json.Unmarshaler.
func (d *Retention) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err == nil {
		*d, err = ParseRetention(s)
		return err
	}
	return json.Unmarshal(b, (*int64)(d))
}

// MarshalJSON implements json.Marshaler.
func (d Retention) MarshalJSON() ([]byte, error) {
	if d == Forever {
		return []byte(`"forever"`), nil
	}
	return json.Marshal(int64(d))
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.Validator             = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
	_ json.Unmarshaler            = (*Retention)(nil)
)
