// Package instantapi is a Caddy module that lets only authentic, whole and new
// InstantAPI webhook events through to a backend.
//
// [Handler.ServeHTTP] takes a request through all of it: read the raw body, check
// its HMAC-SHA256, claim the event, forward it, record the delivery.
package instantapi

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/instantapi/caddy-instantapi-verify/signature"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

func init() {
	caddy.RegisterModule(Handler{})
}

// Handler guards a webhook endpoint for events of InstantAPI. A request reaches
// the next handler only if its body is signed with one of the secrets and its
// event has not been delivered before. An event counts as delivered when the
// next handlers answer with a status of 2xx; that is recorded in the store of
// the app `instantapi_verify` before the answer goes out.
//
// The next handlers get the body byte for byte, and these request headers,
// which nobody else can set: `X-InstantAPI-Verified: true`, `Idempotency-Key`
// with the identity of the event and, if the store could not be asked,
// `X-InstantAPI-Deduplicated: false`.
//
// It sets these placeholders, and access log fields of the same names under
// `instantapi_verify`:
//
// Placeholder | Description
// ------------|-------------
// `{http.instantapi_verify.event_type}` | The event's `event_type`
// `{http.instantapi_verify.task_id}` | The event's `task_id`
// `{http.instantapi_verify.status}` | The event's `status`
// `{http.instantapi_verify.outcome}` | The outcome of the request: `forwarded`, `duplicate`, `bad_signature`, ...
//
// The first three are empty until the signature is verified.
type Handler struct {
	// The webhook secrets. An event signed with any of them is authentic; give
	// the old and the new one while you rotate. The placeholders `{env.*}` and
	// `{file.*}` are replaced when the config loads, which fails if one is
	// unset, empty or unreadable. Required.
	Secrets []string `json:"secrets,omitempty"`

	// The request header that carries the signature: 64 hex digits, with an
	// optional `sha256=` in front, which spaces may follow. Default:
	// `X-InstantAPI-Signature`.
	SignatureHeader string `json:"signature_header,omitempty"`

	// The largest body in bytes; more is answered with 413. Default: 4194304
	// (4 MiB).
	MaxBodySize int64 `json:"max_body_size,omitempty"`

	// Whether to answer the request with which the sender tests whether a newly
	// registered endpoint is reachable: `GET`, `HEAD`, and a `POST` without a
	// signature whose body (at most 4 KiB) holds no `task_id` get a 200. They
	// are not forwarded. Default: `false`, as a strict endpoint says 401 to
	// everything that is not signed.
	AnswerVerificationRequests bool `json:"answer_verification_requests,omitempty"`

	// Events are duplicates only within one scope, so that two endpoints each
	// get their copy. Request placeholders are allowed, but their values come
	// from the request, and the signature covers only the body: a scope that a
	// replayed request can choose is no defence against replays. Default:
	// `{http.request.host}{http.request.orig_uri.path}`, compared as Caddy's
	// own matchers compare them: ignoring case, doubled slashes and dot
	// segments.
	Scope string `json:"scope,omitempty"`

	// The top-level fields of the body that identify an event. If one of them
	// is missing or empty, the whole body identifies it. Default:
	// `["event_type", "task_id"]`.
	DedupeBy []string `json:"dedupe_by,omitempty"`

	// How long a delivered event is remembered: a duration, or `forever`. The
	// signature covers no timestamp, so this is also how long a captured
	// request can't be replayed. Default: `720h`.
	Retention Retention `json:"retention,omitempty"`

	// How long a request waits for the outcome if another request is delivering
	// the same event; after that it is answered with 503 and `Retry-After`.
	// With 0 it does not wait. Choose less than the sender waits for an answer,
	// or the sender sees a timeout instead of the 503. Default: `5s`, half of
	// what most senders of webhooks wait.
	InFlightWait *caddy.Duration `json:"in_flight_wait,omitempty"`

	// How long a delivery may take. It goes on when the sender hangs up, so
	// that the success of a slow backend is remembered. Default: `2m`.
	ForwardTimeout caddy.Duration `json:"forward_timeout,omitempty"`

	// What to do with a new event while the store fails: `reject` answers with
	// 503 and `Retry-After`; `forward` delivers it, marked with
	// `X-InstantAPI-Deduplicated: false`. Default: `reject`.
	OnStoreError string `json:"on_store_error,omitempty"`

	// The request header that carries the event's identity to the next
	// handlers, or `off` for none. The identity is the same in each attempt to
	// deliver an event: `off` is for backends whose own middleware stores its
	// answer to the first attempt, even a failure, and replays it to later
	// ones. The client's own values of this header and of `Idempotency-Key` are
	// always removed. Default: `Idempotency-Key`.
	IdempotencyHeader string `json:"idempotency_header,omitempty"`

	// Whether to do without a store: verify and forward, duplicates and all.
	// Default: `false`.
	VerifyOnly bool `json:"verify_only,omitempty"`

	app      *App
	log      *zap.Logger
	verifier *signature.Verifier
	matches  []prometheus.Counter // one per secret
	fields   []string             // to read from an event: first those with a placeholder, then DedupeBy

	// Header names as net/http spells them.
	signatureHeader   string
	idempotencyHeader string   // empty: off
	guardHeaders      []string // those that a client must not set
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
)

// eventFields are the fields that have a placeholder.
var eventFields = []string{"event_type", "task_id", "status"}

// Provision sets the defaults, resolves the secrets and finds the app.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.log = ctx.Logger()
	h.setDefaults()
	h.fields = append(slices.Clone(eventFields), h.DedupeBy...)

	secrets, err := resolveSecrets(h.Secrets, h.log)
	if err != nil {
		return err
	}
	if h.verifier, err = signature.NewVerifier(secrets...); err != nil {
		return fmt.Errorf("secret: %w", err)
	}
	h.provisionHeaders()
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
	h.app.rules = append(h.app.rules, dedupeRule{h.Scope, h.DedupeBy})
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
	if h.IdempotencyHeader == "" {
		h.IdempotencyHeader = defaultIdempotencyHeader
	}
}

// Validate checks the values.
func (h *Handler) Validate() error {
	if err := h.checkHeaderNames(); err != nil {
		return err
	}
	if h.MaxBodySize < 0 {
		return fmt.Errorf("max_body_size: %d is not a size; give a number of bytes above 0", h.MaxBodySize)
	}
	if err := checkDedupeBy(h.DedupeBy); err != nil {
		return fmt.Errorf("dedupe_by: %w", err)
	}
	if h.Retention != Forever {
		d := time.Duration(h.Retention)
		if err := checkRetention(d, d.String()); err != nil {
			return fmt.Errorf("retention: %w", err)
		}
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

func checkOnStoreError(policy string) error {
	if policy != onStoreErrorReject && policy != onStoreErrorForward {
		return fmt.Errorf("%q is neither reject nor forward", policy)
	}
	return nil
}

func checkDedupeBy(fields []string) error {
	if len(fields) == 0 {
		return errors.New("give at least one field")
	}
	for i, field := range fields {
		if field == "" {
			return errors.New("a field's name is empty")
		}
		if slices.Contains(fields[:i], field) {
			return fmt.Errorf("field %q is listed twice", field)
		}
	}
	return nil
}

// Cleanup reports the suppressed lines before the process ends.
func (h *Handler) Cleanup() error {
	if !caddy.Exiting() {
		return nil
	}
	for _, o := range outcomes {
		o.reportSuppressed()
	}
	return nil
}

// ServeHTTP runs serve, and answers the request if the next handlers have not.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	x := newExchange(h, w, r, next)
	defer x.end() // deferred, for handlers that panic

	a, err := x.serve()
	if a != nil {
		err = x.answer(a, err)
	}
	return x.leaveToErrorRoutes(err)
}

// serve is the contract of this module. Each step either leads to the next one
// or ends with an answer and its cause. The answer is nil if the next handlers
// have answered.
func (x *exchange) serve() (*answer, error) {
	// This comes first, so that it holds whatever becomes of the request.
	x.removeGuardHeaders()      // the client's own copies of them
	x.removeConnectionHeaders() // no upgrade gets past here

	// Answer what needs no signature, and refuse what can be refused before the
	// body is read. (A probe has a small one and no signature.)
	signatures := x.request.Header[x.handler.signatureHeader]
	if x.isProbe(signatures) {
		return answerProbe, nil
	}
	if x.request.Method != http.MethodPost {
		return answerMethod, methodError(x.request.Method)
	}
	sig, err := signature.Parse(signatures)
	if err != nil {
		return answerForSignature(err), err
	}

	// Verify the bytes as they were sent, before anything interprets them.
	if err := x.readBody(x.handler.MaxBodySize); err != nil {
		return answerForReadError(err), err
	}
	if err := x.verify(sig); err != nil {
		return answerForSignature(err), err
	}
	if err := x.identify(); err != nil {
		return answerJSON, err
	}
	x.setGuardHeaders()
	if x.handler.VerifyOnly || x.claimedInFront() {
		return x.forward()
	}

	// Claim the event: from here on nobody else delivers it.
	ledger, err := x.handler.app.acquire()
	if err != nil {
		return x.withoutStore(err)
	}
	defer x.handler.app.release()
	before, err := x.claimEvent(ledger)
	switch {
	case before != nil:
		return x.answerForRepeat(before), nil
	case x.claim == nil:
		x.markUnprotected() // for an error route that delivers all the same
		return answerInFlight, err
	case err != nil:
		return x.withoutStore(err)
	}
	return x.forward()
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.Validator             = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
