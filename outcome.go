package instantapi

import (
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/time/rate"
)

// All outcomes of a request.
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
	outcomeProbe          = newOutcome("verification_request")

	// Four reasons of one outcome, bad_signature.
	outcomeMissing   = newBadSignature("missing")
	outcomeRepeated  = newBadSignature("repeated")
	outcomeMalformed = newBadSignature("malformed")
	outcomeMismatch  = newBadSignature("mismatch")
)

var (
	requestsTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem, Name: "requests_total",
		Help: "Requests, by outcome.",
	}, []string{"outcome"})

	signatureErrorsTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem, Name: "signature_errors_total",
		Help: "Requests with the outcome bad_signature, by reason.",
	}, []string{"reason"})
)

// outcome is the outcome of a request. Its name is the value of the
// placeholder, in the access log and of the metrics' label.
type outcome struct {
	name     string
	requests prometheus.Counter
	reason   prometheus.Counter // of a bad signature; otherwise nil
	lines    *lineLimit
}

// outcomes has every outcome.
var outcomes []*outcome

func newOutcome(name string) *outcome {
	o := &outcome{name: name, requests: requestsTotal.WithLabelValues(name)}
	o.lines = newLineLimit(o.reportSuppressed)
	outcomes = append(outcomes, o)
	return o
}

func newBadSignature(reason string) *outcome {
	o := newOutcome("bad_signature")
	o.reason = signatureErrorsTotal.WithLabelValues(reason)
	return o
}

// String returns the name, or "" for an outcome that is not known yet.
func (o *outcome) String() string {
	if o == nil {
		return ""
	}
	return o.name
}

// isRepeat reports whether the request was dropped because its event had been
// delivered before.
func (o *outcome) isRepeat() bool {
	return o == outcomeDuplicate || o == outcomeChanged || o == outcomeWaited
}

// count counts a request with this outcome.
func (o *outcome) count() {
	o.requests.Inc()
	if o.reason != nil {
		o.reason.Inc()
	}
}

// Anybody can make a guard refuse requests as fast as the network allows, and
// anybody who has captured an event can make it drop duplicates. To save the
// operator disk and CPU, the number of log lines per outcome is limited in the
// whole process: not per handler, of which there may be many, nor per config,
// or a reload would reset it. The next line, or one written after a while, says
// how many were left out; the metrics miss none.
const (
	linesPerSecond = 2
	linesAtOnce    = 10

	// reportAfter is how long the number of suppressed lines waits for the next
	// line before it is reported in a line of its own.
	reportAfter = 10 * time.Second
)

// lineLimit decides which lines of one outcome are written.
type lineLimit struct {
	rate       *rate.Limiter
	suppressed atomic.Int64 // since the last line
	reporting  atomic.Bool  // report will be called
	report     func()
}

func newLineLimit(report func()) *lineLimit {
	return &lineLimit{rate: rate.NewLimiter(linesPerSecond, linesAtOnce), report: report}
}

// next reports whether a line may be written now, and how many lines before it
// were not written.
func (l *lineLimit) next() (suppressed int64, ok bool) {
	if l.rate.Allow() {
		return l.suppressed.Swap(0), true
	}
	l.suppressed.Add(1)
	if !l.reporting.Load() && l.reporting.CompareAndSwap(false, true) {
		time.AfterFunc(reportAfter, func() {
			l.reporting.Store(false)
			l.report()
		})
	}
	return 0, false
}

// logLimited writes a line about a request, unless there are too many with this
// outcome. It makes the fields only for a line that is written.
func (x *exchange) logLimited(o *outcome, level zapcore.Level, message string, cause error) {
	log := x.handler.log
	if !log.Core().Enabled(level) {
		return
	}
	suppressed, ok := o.lines.next()
	if !ok {
		return
	}
	fields := x.describe(cause)
	if suppressed > 0 {
		fields = append(fields, zap.Int64("suppressed", suppressed))
	}
	log.Log(level, message, fields...)
}

// reportSuppressed logs how many lines were not written since the last one.
func (o *outcome) reportSuppressed() {
	suppressed := o.lines.suppressed.Swap(0)
	if suppressed == 0 {
		return
	}
	// The config that they belonged to may be gone, and its log with it.
	log := caddy.Log().Named("http.handlers.instantapi_verify")
	log.Warn("more lines like the previous ones were suppressed",
		zap.Stringer("outcome", o), zap.Int64("suppressed", suppressed))
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

// Interface guards
var _ caddy.CleanerUpper = (*Handler)(nil)
