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

// What can become of a request. The outcomes of bad signatures are with their
// answers.
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
)

var (
	requestsTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem, Name: "requests_total",
		Help: "Requests by what became of them.",
	}, []string{"outcome"})

	signatureErrorsTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem, Name: "signature_errors_total",
		Help: "Requests with the outcome bad_signature, by the reason.",
	}, []string{"reason"})
)

// outcome is what became of a request: a value of the placeholder, of the access
// log and of the metrics' label.
type outcome struct {
	name     string
	requests prometheus.Counter
	reason   prometheus.Counter // of a bad signature, else nil
	lines    *lineLimit
}

// outcomes are all there are.
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

// String returns the name. An outcome that is not known yet has none.
func (o *outcome) String() string {
	if o == nil {
		return ""
	}
	return o.name
}

// isRepeat reports whether the request was dropped because its event was delivered
// before.
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

// Anybody can make a guard refuse requests, and who has recorded an event can
// make it drop duplicates, as fast as the network is. So that this costs the
// operator neither disk nor CPU, only so many lines of each outcome are written,
// in the whole process: not for each handler, of which there may be many, nor for
// each config, or a reload would begin anew. How many were left out is told by
// the next line, or after a while; and the metrics miss none.
const (
	linesPerSecond = 2
	linesAtOnce    = 10

	// reportAfter is how long a number of lines that were left out may wait for
	// the next line.
	reportAfter = 10 * time.Second
)

// lineLimit says which lines of one outcome are written.
type lineLimit struct {
	rate       *rate.Limiter
	suppressed atomic.Int64 // since the last line
	reporting  atomic.Bool  // report will be called
	report     func()
}

func newLineLimit(report func()) *lineLimit {
	return &lineLimit{rate: rate.NewLimiter(linesPerSecond, linesAtOnce), report: report}
}

// next reports whether a line may be written now, and how many before it were
// not.
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
// outcome. A line that is not written makes no fields.
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

// reportSuppressed tells how many lines were not written since the last one that
// was.
func (o *outcome) reportSuppressed() {
	suppressed := o.lines.suppressed.Swap(0)
	if suppressed == 0 {
		return
	}
	// The config that they belonged to may be gone, and its log with it.
	log := caddy.Log().Named("http.handlers.instantapi_verify")
	log.Warn("more lines like the last ones were not written",
		zap.Stringer("outcome", o), zap.Int64("suppressed", suppressed))
}

// Cleanup tells, before the process ends, what would have been told later.
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
