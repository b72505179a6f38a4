package instantapi

import (
	"context"
	"encoding/hex"
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

// The states of an event.
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
	ExpiresAt     time.Time                 `json:"expires_at,omitzero"`      // missing: never
	Unrecorded    bool                      `json:"only_in_memory,omitempty"` // because the store fails
}

type eventsReport struct {
	Events []eventReport `json:"events"`
}

func handleEvent(w http.ResponseWriter, r *http.Request) error {
	if err := allowMethods(w, r, http.MethodGet, http.MethodDelete); err != nil {
		return err
	}
	app, events := acquireRunning()
	if app == nil {
		return errNoStore()
	}
	defer app.release()
	meant, err := eventsMeant(r.URL.RawQuery, app.rules)
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
		return apiError(http.StatusBadRequest, "this means %d events; give event_type or the identity to forget one", len(meant))
	}
	ev := &meant[0]
	before, err := events.Forget(ctx, ev.id)
	switch {
	case errors.Is(err, ledger.ErrInFlight):
		return apiError(http.StatusConflict, "the event is being delivered; try again when the delivery has ended")
	case err != nil:
		return apiError(http.StatusServiceUnavailable, "forgetting the event: %w", err)
	case before == nil:
		return apiError(http.StatusNotFound, "the event is not known: nothing to forget")
	}
	ev.report.delivered(before)
	ev.report.State = stateForgotten
	return answerJSONReport(w, reportOf(meant))
}

// meantEvent is an event that a request asks about.
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

// knownEventTypes are the documented values of event_type.
var knownEventTypes = []string{"task.completed", "task.failed"}

// eventsMeant returns the events that a query means under these rules.
func eventsMeant(rawQuery string, rules []dedupeRule) ([]meantEvent, error) {
	query, err := url.ParseQuery(rawQuery)
	if err != nil {
		return nil, err
	}
	for name, values := range query {
		if !slices.Contains([]string{"identity", "url", "scope", "field"}, name) {
			return nil, fmt.Errorf("unknown parameter %q; the parameters are identity, url, scope and field", name)
		}
		if name != "field" && len(values) > 1 {
			return nil, fmt.Errorf("parameter %s is repeated; give it once", name)
		}
	}
	if query.Has("identity") {
		if len(query) > 1 {
			return nil, errors.New("an identity is enough; leave out the other parameters")
		}
		id, err := parseIdentity(query.Get("identity"))
		return []meantEvent{newMeantEvent(id)}, err
	}
	if len(rules) == 0 {
		return nil, errors.New("no instantapi_verify in the config remembers events; ask by identity")
	}
	if query.Has("url") == query.Has("scope") {
		return nil, errors.New("give the url that the event was sent to, or its scope if the handler has one, or its identity")
	}
	scope := query.Get("scope")
	if query.Has("url") {
		rules = slices.DeleteFunc(slices.Clone(rules), func(rule dedupeRule) bool { return rule.scope != "" })
		if len(rules) == 0 {
			return nil, errors.New("every handler has a scope of its own; give scope instead of url")
		}
		if scope, err = scopeOfURL(query.Get("url")); err != nil {
			return nil, err
		}
	}
	fields, err := parseFields(query["field"])
	if err != nil {
		return nil, err
	}
	return eventsOf(scope, fields, rules)
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
		return "", fmt.Errorf("%q is not a url like https://example.com/webhooks/instantapi", s)
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
			return nil, fmt.Errorf("field %s is repeated; give it once", name)
		}
		values[name] = parsed
	}
	return values, nil
}

// eventsOf returns the events with these fields, under each of the rules.
func eventsOf(scope string, fields map[string]jsontext.Value, rules []dedupeRule) ([]meantEvent, error) {
	var meant []meantEvent
	var ways [][]string
	for _, rule := range rules {
		if slices.ContainsFunc(ways, func(way []string) bool { return slices.Equal(way, rule.fields) }) {
			continue
		}
		ways = append(ways, rule.fields)
		for _, complete := range completions(fields, rule.fields) {
			values := make([]jsontext.Value, len(rule.fields))
			for i, name := range rule.fields {
				values[i] = complete[name]
			}
			id, ok := identifyFields(scope, values...)
			if !ok {
				return nil, errors.New("events with an empty field are identified by their whole body; ask by identity")
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
	return nil, fmt.Errorf("these are not the fields that identify events; give %s", strings.Join(told, ", or "))
}

// completions returns fields if they are what dedupeBy asks for. If only
// event_type is missing, it returns them once with each of the known types.
func completions(fields map[string]jsontext.Value, dedupeBy []string) []map[string]jsontext.Value {
	var missing []string
	for _, name := range dedupeBy {
		if fields[name] == nil {
			missing = append(missing, name)
		}
	}
	switch {
	case len(fields)+len(missing) > len(dedupeBy):
		return nil // some are not in dedupeBy
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
