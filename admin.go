package instantapi

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/instantapi/caddy-instantapi-verify/internal/ledger"
	"github.com/instantapi/caddy-instantapi-verify/store"
)

func init() {
	caddy.RegisterModule(adminAPI{})
}

// adminAPI answers, at Caddy's admin endpoint, what happened to an event:
//
//	GET    /instantapi_verify/status
//	GET    /instantapi_verify/event?<which>
//	DELETE /instantapi_verify/event?<which>
//
// Which event is said by its identity, the header Idempotency-Key that the
// backend got,
//
//	identity=<32 hex digits>
//
// or by the URL that it was sent to, or the scope where a handler has one of its
// own, and by the fields that the handlers tell events by, `dedupe_by`:
//
//	url=https://example.com/webhooks/instantapi&field=event_type=task.completed&field=task_id=task_1
//	scope=orders&field=task_id:=1
//
// `=` gives a text, `:=` any other value as it stands in the event. Without
// event_type each of [knownEventTypes] is meant.
//
// GET answers with what is known of each event that is meant. DELETE forgets one,
// so that it is forwarded again when it is sent again; that is durable when it is
// answered. It answers 404 where the event is not known, and 409 while it is
// being delivered. Neither has ever seen a body.
type adminAPI struct{}

// CaddyModule returns the Caddy module information.
func (adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.instantapi_verify",
		New: func() caddy.Module { return new(adminAPI) },
	}
}

const (
	adminStatus = "/instantapi_verify/status"
	adminEvent  = "/instantapi_verify/event"
)

// Routes implements caddy.AdminRouter.
func (adminAPI) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{
		{Pattern: adminStatus, Handler: caddy.AdminHandlerFunc(handleStatus)},
		{Pattern: adminEvent, Handler: caddy.AdminHandlerFunc(handleEvent)},
	}
}

// statusReport is the answer to a question for the status. Bytes that the store
// does not know are left out.
type statusReport struct {
	Store            string       `json:"store"`
	Options          string       `json:"options,omitempty"`
	EventsRemembered *int64       `json:"events_remembered,omitempty"`
	EventsInFlight   int          `json:"events_in_flight"`
	EventsUnrecorded int          `json:"events_unrecorded"`
	Bytes            int64        `json:"bytes,omitempty"`
	FreeBytes        *int64       `json:"free_bytes,omitempty"`
	MinFreeBytes     int64        `json:"min_free_bytes,omitempty"`
	LastError        *errorReport `json:"last_error,omitempty"`
}

// errorReport is the last thing that went wrong with the store, since it was
// opened. It may be over.
type errorReport struct {
	At    time.Time `json:"at"`
	Error string    `json:"error"`
}

// What is known of an event.
const (
	stateDelivered = "delivered"
	stateInFlight  = "in_flight"
	stateUnknown   = "unknown"
	stateForgotten = "forgotten"
)

// eventReport is what is known of an event. All times are to the second.
type eventReport struct {
	Identity      string                    `json:"identity"`
	Scope         string                    `json:"scope,omitempty"`
	Fields        map[string]jsontext.Value `json:"fields,omitempty"`
	State         string                    `json:"state"`
	InFlightSince time.Time                 `json:"in_flight_since,omitzero"`
	DeliveredAt   time.Time                 `json:"delivered_at,omitzero"`
	BackendStatus int                       `json:"backend_status,omitempty"`
	ExpiresAt     time.Time                 `json:"expires_at,omitzero"`      // not there: never
	Unrecorded    bool                      `json:"only_in_memory,omitempty"` // because the store fails
}

type eventsReport struct {
	Events []eventReport `json:"events"`
}

func apiError(status int, format string, args ...any) error {
	return caddy.APIError{HTTPStatus: status, Err: fmt.Errorf(format, args...)}
}

func answerJSONReport(w http.ResponseWriter, report any) error {
	encoded, err := json.Marshal(report)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(encoded, '\n')) // nobody is left to tell if this fails
	return nil
}

// errNoStoreOpen means that the config in force needs no store.
var errNoStoreOpen = caddy.APIError{
	HTTPStatus: http.StatusNotFound,
	Err:        errors.New("no store is open: the config has no instantapi_verify without verify_only"),
}

func handleStatus(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", "GET")
		return apiError(http.StatusMethodNotAllowed, "method %s is not allowed here, use GET", r.Method)
	}
	app, events := acquireRunning()
	if app == nil {
		return errNoStoreOpen
	}
	defer app.release() //nolint:errcheck // the store logs why it can't close
	report := statusReport{Store: app.key, Options: app.options}
	report.EventsInFlight, report.EventsUnrecorded = events.Load()
	if last := events.LastFailure(); last != nil {
		report.LastError = &errorReport{last.At.UTC().Truncate(time.Second), last.Err.Error()}
	}
	if reader, ok := events.Store().(store.StatisticsReader); ok {
		stats, err := reader.Statistics(r.Context())
		if err != nil {
			return apiError(http.StatusServiceUnavailable, "reading the store's figures: %w", err)
		}
		report.EventsRemembered, report.Bytes = &stats.Events, stats.Bytes
		if stats.MinFreeBytes > 0 {
			report.FreeBytes, report.MinFreeBytes = &stats.FreeBytes, stats.MinFreeBytes
		}
	}
	return answerJSONReport(w, report)
}

func handleEvent(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet && r.Method != http.MethodDelete {
		w.Header().Set("Allow", "GET, DELETE")
		return apiError(http.StatusMethodNotAllowed, "method %s is not allowed here, use GET or DELETE", r.Method)
	}
	app, events := acquireRunning()
	if app == nil {
		return errNoStoreOpen
	}
	defer app.release() //nolint:errcheck // the store logs why it can't close
	meant, err := eventsMeant(r.URL.RawQuery, app.handlers)
	if err != nil {
		return caddy.APIError{HTTPStatus: http.StatusBadRequest, Err: err}
	}
	if r.Method == http.MethodDelete {
		return forgetEvent(r.Context(), w, events, meant)
	}
	for i := range meant {
		if err := meant[i].ask(r.Context(), events); err != nil {
			return apiError(http.StatusServiceUnavailable, "asking the store: %w", err)
		}
	}
	return answerJSONReport(w, reportOf(meant))
}

func forgetEvent(ctx context.Context, w http.ResponseWriter, events *ledger.Ledger, meant []meantEvent) error {
	if len(meant) > 1 {
		return apiError(http.StatusBadRequest, "%d events are meant; give event_type or the identity, to forget one", len(meant))
	}
	ev := &meant[0]
	before, err := events.Forget(ctx, ev.id)
	switch {
	case errors.Is(err, ledger.ErrInFlight):
		return apiError(http.StatusConflict, "the event is being delivered; try again when that has ended")
	case err != nil:
		return apiError(http.StatusServiceUnavailable, "forgetting the event: %w", err)
	case before == nil:
		return apiError(http.StatusNotFound, "the event is not known: nothing to forget")
	}
	ev.report.delivered(before)
	ev.report.State = stateForgotten
	return answerJSONReport(w, reportOf(meant))
}

// meantEvent is an event that somebody asks for.
type meantEvent struct {
	id     store.Identity
	report eventReport
}

func reportOf(meant []meantEvent) (report eventsReport) {
	for _, ev := range meant {
		report.Events = append(report.Events, ev.report)
	}
	return report
}

func (ev *meantEvent) ask(ctx context.Context, l *ledger.Ledger) error {
	known, err := l.Ask(ctx, ev.id)
	switch {
	case !known.InFlight.IsZero():
		ev.report.State = stateInFlight
		ev.report.InFlightSince = known.InFlight.UTC().Truncate(time.Second)
	case known.Delivered != nil:
		ev.report.State = stateDelivered
		ev.report.Unrecorded = known.Unrecorded
		ev.report.delivered(known.Delivered)
	case err == nil:
		ev.report.State = stateUnknown
	}
	return err
}

func (report *eventReport) delivered(rec *store.Record) {
	report.DeliveredAt = rec.DeliveredAt.UTC().Truncate(time.Second)
	report.BackendStatus = rec.Status
	if !rec.ExpiresAt.IsZero() {
		report.ExpiresAt = rec.ExpiresAt.UTC()
	}
}

// knownEventTypes are what event_type can be for all that is documented.
var knownEventTypes = []string{"task.completed", "task.failed"}

// eventsMeant returns the events that a query means to the handlers.
func eventsMeant(rawQuery string, handlers []*Handler) ([]meantEvent, error) {
	query, err := url.ParseQuery(rawQuery)
	if err != nil {
		return nil, err
	}
	for name, values := range query {
		if !slices.Contains([]string{"identity", "url", "scope", "field"}, name) {
			return nil, fmt.Errorf("unknown parameter %q; there are identity, url, scope and field", name)
		}
		if name != "field" && len(values) > 1 {
			return nil, fmt.Errorf("parameter %s is there twice; give it once", name)
		}
	}
	if query.Has("identity") {
		if len(query) > 1 {
			return nil, errors.New("an identity says all; leave out the other parameters")
		}
		id, err := parseIdentity(query.Get("identity"))
		return []meantEvent{newMeantEvent(id)}, err
	}
	if len(handlers) == 0 {
		return nil, errors.New("the config has no instantapi_verify that remembers events; ask by identity")
	}
	if query.Has("url") == query.Has("scope") {
		return nil, errors.New("give either the url that the event was sent to, or its scope where the handler has one, or its identity")
	}
	scope := query.Get("scope")
	if query.Has("url") {
		handlers = slices.DeleteFunc(slices.Clone(handlers), func(h *Handler) bool { return h.Scope != "" })
		if len(handlers) == 0 {
			return nil, errors.New("each handler has a scope of its own; give scope instead of url")
		}
		if scope, err = scopeOfURL(query.Get("url")); err != nil {
			return nil, err
		}
	}
	fields, err := parseFields(query["field"])
	if err != nil {
		return nil, err
	}
	return eventsOf(scope, fields, handlers)
}

func newMeantEvent(id store.Identity) meantEvent {
	return meantEvent{id, eventReport{Identity: id.String()}}
}

func parseIdentity(s string) (id store.Identity, err error) {
	if len(s) != hex.EncodedLen(len(id)) {
		return id, fmt.Errorf("identity %q is not 32 hex digits, as in the header Idempotency-Key", s)
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return id, fmt.Errorf("identity %q is not 32 hex digits, as in the header Idempotency-Key", s)
	}
	return id, nil
}

// scopeOfURL returns the default scope of requests to a URL.
func scopeOfURL(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return "", fmt.Errorf("url %q is not one, like https://example.com/webhooks/instantapi", s)
	}
	path := u.Path
	if path == "" {
		path = "/"
	}
	return defaultScope(u.Host, path), nil
}

// parseFields reads fields like `task_id=task_1` and `task_id:=1`.
func parseFields(fields []string) (map[string]jsontext.Value, error) {
	values := make(map[string]jsontext.Value)
	for _, field := range fields {
		name, value, ok := strings.Cut(field, "=")
		if !ok {
			return nil, fmt.Errorf("field %q is not <name>=<text> or <name>:=<JSON>", field)
		}
		var parsed jsontext.Value
		if raw, isJSON := strings.CutSuffix(name, ":"); isJSON {
			name, parsed = raw, jsontext.Value(value)
			if !parsed.IsValid() {
				return nil, fmt.Errorf("field %s: %q is not JSON; for a text, write %s=%s", name, value, name, value)
			}
		} else {
			quoted, err := jsontext.AppendQuote(nil, value)
			if err != nil {
				return nil, fmt.Errorf("field %s: the text is not UTF-8", name)
			}
			parsed = quoted
		}
		if _, twice := values[name]; twice {
			return nil, fmt.Errorf("field %s is there twice; give it once", name)
		}
		values[name] = parsed
	}
	return values, nil
}

// eventsOf returns the events with these fields, for each way in which the
// handlers tell events.
func eventsOf(scope string, fields map[string]jsontext.Value, handlers []*Handler) ([]meantEvent, error) {
	var meant []meantEvent
	var ways [][]string
	for _, h := range handlers {
		if slices.ContainsFunc(ways, func(way []string) bool { return slices.Equal(way, h.DedupeBy) }) {
			continue
		}
		ways = append(ways, h.DedupeBy)
		for _, complete := range completions(fields, h.DedupeBy) {
			values := make([]jsontext.Value, len(h.DedupeBy))
			for i, name := range h.DedupeBy {
				values[i] = complete[name]
			}
			id, ok := identifyFields(scope, values...)
			if !ok {
				return nil, errors.New("events with an empty field are told by their whole body: ask by identity")
			}
			ev := newMeantEvent(id)
			ev.report.Scope, ev.report.Fields = scope, complete
			meant = append(meant, ev)
		}
	}
	if len(meant) > 0 {
		return meant, nil
	}
	var told []string
	for _, way := range ways {
		told = append(told, strings.Join(way, " and "))
	}
	return nil, fmt.Errorf("these are not the fields that tell events: give %s", strings.Join(told, ", or "))
}

// completions returns fields if they are what dedupeBy asks for; if event_type
// alone is missing, once with each of the known ones.
func completions(fields map[string]jsontext.Value, dedupeBy []string) []map[string]jsontext.Value {
	var missing []string
	for _, name := range dedupeBy {
		if fields[name] == nil {
			missing = append(missing, name)
		}
	}
	switch {
	case len(fields)+len(missing) > len(dedupeBy):
		return nil // some that nobody asks for
	case len(missing) == 0:
		return []map[string]jsontext.Value{fields}
	case len(missing) > 1 || missing[0] != "event_type" || len(fields) == 0:
		return nil
	}
	var all []map[string]jsontext.Value
	for _, eventType := range knownEventTypes {
		quoted, _ := jsontext.AppendQuote(nil, eventType)
		complete := map[string]jsontext.Value{"event_type": quoted}
		for name, value := range fields {
			complete[name] = value
		}
		all = append(all, complete)
	}
	return all
}

// Interface guards
var _ caddy.AdminRouter = adminAPI{}
