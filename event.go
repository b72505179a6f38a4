package instantapi

import (
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// event is what is known of a request's event, for placeholders and logs.
type event struct {
	eventType, taskID, taskStatus string
	outcome                       *outcome // nil until it is known
	size                          int      // of the body in bytes
	backendStatus                 int      // 0: none, or not yet
}

// count counts the request by its outcome. It is the only place that does.
func (ev *event) count() {
	if ev.outcome != nil { // nil if a step panicked
		ev.outcome.count()
	}
}

// publish provides the request's placeholders and access log fields.
func (ev *event) publish(r *http.Request) {
	r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).Map(ev.placeholder)
	if extra, ok := r.Context().Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
		extra.Set(zap.Object("instantapi_verify", ev))
	}
}

func (ev *event) placeholder(key string) (any, bool) {
	switch key {
	case "http.instantapi_verify.event_type":
		return ev.eventType, true
	case "http.instantapi_verify.task_id":
		return ev.taskID, true
	case "http.instantapi_verify.status":
		return ev.taskStatus, true
	case "http.instantapi_verify.outcome":
		return ev.outcome.String(), true
	default:
		return nil, false
	}
}

// MarshalLogObject implements zapcore.ObjectMarshaler.
func (ev *event) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	enc.AddString("outcome", ev.outcome.String())
	for i, value := range []string{ev.eventType, ev.taskID, ev.taskStatus} {
		if value == "" {
			continue
		}
		if len(value) > maxLogged {
			value = strings.ToValidUTF8(value[:maxLogged], "") + "..."
		}
		enc.AddString(eventFields[i], value)
	}
	return nil
}

// maxLogged is how many bytes of an event's field the log gets: a log is no
// place for a body.
const maxLogged = 128

// Interface guard
var _ zapcore.ObjectMarshaler = (*event)(nil)
