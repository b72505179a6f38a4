package instantapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/instantapi/caddy-instantapi-verify/internal/ledger"
	"github.com/instantapi/caddy-instantapi-verify/store"
)

func init() {
	caddy.RegisterModule(adminAPI{})
}

// adminAPI answers questions about the store and its events at Caddy's admin
// endpoint:
//
//	GET    /instantapi_verify/status
//	GET    /instantapi_verify/event?<which>
//	DELETE /instantapi_verify/event?<which>
//	POST   /instantapi_verify/backup
//
// An event is named by its identity, which the backend got in the header
// Idempotency-Key,
//
//	identity=<32 hex digits>
//
// or by the URL that it was sent to (the scope if a handler has one of its own)
// and the fields that identify events, `dedupe_by`:
//
//	url=https://example.com/webhooks/instantapi&field=event_type=task.completed&field=task_id=task_1
//	scope=orders&field=task_id:=1
//
// `=` gives a text, `:=` any other value as it stands in the event. Without
// event_type the question is about each of [knownEventTypes].
//
// GET answers with what is known of each event. DELETE forgets one, so that it
// is forwarded again when it is sent again; that is durable once it is
// answered. It answers 404 if the event is not known, and 409 while it is being
// delivered.
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
	adminBackup = "/instantapi_verify/backup"
)

// Routes implements caddy.AdminRouter.
func (adminAPI) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{
		{Pattern: adminStatus, Handler: caddy.AdminHandlerFunc(handleStatus)},
		{Pattern: adminEvent, Handler: caddy.AdminHandlerFunc(handleEvent)},
		{Pattern: adminBackup, Handler: caddy.AdminHandlerFunc(handleBackup)},
	}
}

// statusReport is the answer to a status request. Figures that the store does
// not know are left out.
type statusReport struct {
	Store            string       `json:"store"`
	Options          string       `json:"options,omitempty"`
	NotOpen          string       `json:"not_open,omitempty"`      // why the store is not open
	FiguresError     string       `json:"figures_error,omitempty"` // why there are no figures
	EventsRemembered *int64       `json:"events_remembered,omitempty"`
	EventsInFlight   int          `json:"events_in_flight"`
	EventsUnrecorded int          `json:"events_unrecorded"`
	Bytes            int64        `json:"bytes,omitempty"`
	FreeBytes        *int64       `json:"free_bytes,omitempty"`
	MinFreeBytes     int64        `json:"min_free_bytes,omitempty"`
	LastError        *errorReport `json:"last_error,omitempty"`
}

// errorReport is the store's last error since it was opened. Its cause may have
// passed.
type errorReport struct {
	At    time.Time `json:"at"`
	Error string    `json:"error"`
}

func apiError(status int, format string, args ...any) error {
	return caddy.APIError{HTTPStatus: status, Err: fmt.Errorf(format, args...)}
}

// allowMethods refuses a request whose method is none of these.
func allowMethods(w http.ResponseWriter, r *http.Request, methods ...string) error {
	if slices.Contains(methods, r.Method) {
		return nil
	}
	w.Header().Set("Allow", strings.Join(methods, ", "))
	return apiError(http.StatusMethodNotAllowed, "method %s is not allowed here; use %s", r.Method, strings.Join(methods, " or "))
}

func answerJSONReport(w http.ResponseWriter, report any) error {
	encoded, err := json.Marshal(report)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(encoded, '\n')) // if this fails, the client has gone
	return nil
}

// errNoStore says why no app has a store: either the config in force needs
// none, or no config is in force yet, because Caddy's admin endpoint starts
// before the first config.
func errNoStore() error {
	if caddy.ActiveContext().Context == nil {
		return apiError(http.StatusServiceUnavailable, "no store is open: no config is in force yet; ask again when Caddy has started")
	}
	return apiError(http.StatusNotFound, "no store is open: the config has no instantapi_verify without verify_only")
}

func handleStatus(w http.ResponseWriter, r *http.Request) error {
	if err := allowMethods(w, r, http.MethodGet); err != nil {
		return err
	}
	app, events := acquireRunning()
	if app == nil {
		return errNoStore()
	}
	defer app.release()
	report := statusReport{Store: app.key, Options: app.options}
	report.EventsInFlight, report.EventsUnrecorded = events.Load()
	if last := events.LastFailure(); last != nil {
		report.LastError = &errorReport{last.At.UTC().Truncate(time.Second), last.Err.Error()}
	}
	report.addFigures(r.Context(), events)
	return answerJSONReport(w, report)
}

// addFigures adds the store's figures. If the store can't give them the rest of
// the report is still given: that is when an operator looks.
func (report *statusReport) addFigures(ctx context.Context, events *ledger.Ledger) {
	opened, err := events.Store()
	if err != nil {
		report.NotOpen = err.Error()
		return
	}
	reader, ok := opened.(store.StatisticsReader)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, statisticsTimeout)
	defer cancel()
	stats, err := reader.Statistics(ctx)
	if err != nil {
		report.FiguresError = err.Error()
		return
	}
	report.EventsRemembered, report.Bytes = &stats.Events, stats.Bytes
	if stats.MinFreeBytes > 0 {
		report.FreeBytes, report.MinFreeBytes = &stats.FreeBytes, stats.MinFreeBytes
	}
}

// Interface guards
var _ caddy.AdminRouter = adminAPI{}
