package instantapi

import (
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/instantapi/caddy-instantapi-verify/store"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/time/rate"
)

// logLimited writes a line about a request whose outcome is known, or presumed
// as in [exchange.forward], unless there are too many with this outcome. It makes
// the fields only for a line that is written.
func (x *exchange) logLimited(level zapcore.Level, message string, cause error) {
	log := x.handler.log
	if !log.Core().Enabled(level) {
		return
	}
	suppressed, ok := x.outcome.lines.next()
	if !ok {
		return
	}
	fields := x.describe(cause)
	if suppressed > 0 {
		fields = append(fields, zap.Int64("suppressed", suppressed))
	}
	log.Log(level, message, fields...)
}

// describe returns the log fields of a request. They hold nothing that could be
// used to forge or replay an event.
func (x *exchange) describe(cause error) []zap.Field {
	fields := []zap.Field{
		zap.String("remote_addr", x.request.RemoteAddr),
		zap.Int64("length", max(int64(x.size), x.request.ContentLength)),
		zap.Inline(&x.event),
	}
	if x.id != (store.Identity{}) {
		fields = append(fields, zap.Stringer("identity", x.id))
	}
	if x.outcome.isRepeat() {
		fields = append(fields, zap.String("deliver_again", "caddy instantapi forget --identity "+x.id.String()))
	}
	if x.backendStatus != 0 {
		fields = append(fields, zap.Int("backend_status", x.backendStatus))
	}
	if cause != nil {
		fields = append(fields, zap.NamedError("reason", cause))
	}
	return fields
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
