package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"
)

// Exit statuses of lookup and forget, besides 0 for an event that was
// delivered, or is now forgotten, and 1 for an error.
const (
	exitUnknown  = 4
	exitInFlight = 5
)

const adminEvent = "/instantapi_verify/event"

// The states of an event.
const (
	stateDelivered = "delivered"
	stateInFlight  = "in_flight"
	stateUnknown   = "unknown"
	stateForgotten = "forgotten"
)

// eventReport is what the admin API knows of an event. All times are to the second.
type eventReport struct {
	Identity      string                    `json:"identity"`
	Scope         string                    `json:"scope,omitempty"`
	Fields        map[string]jsontext.Value `json:"fields,omitempty"`
	State         string                    `json:"state"`
	InFlightSince time.Time                 `json:"in_flight_since,omitzero"`
	DeliveredAt   time.Time                 `json:"delivered_at,omitzero"`
	BackendStatus int                       `json:"backend_status,omitempty"`
	ExpiresAt     time.Time                 `json:"expires_at,omitzero"`      // zero: never
	Unrecorded    bool                      `json:"only_in_memory,omitempty"` // because it could not be stored
}

type eventsReport struct {
	Events []eventReport `json:"events"`
}

const whichHelp = `
Name the event by the URL that it was sent to (--url, or --scope if the handler has
one) and by its task (--task-id). Without --event-type, the command asks about both
task.completed and task.failed. If dedupe_by names other fields, give them with --field:
name=text, or name:=JSON for a value that is not a string. Or give --identity, the
header Idempotency-Key that the backend got.`

func addWhichFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.String("url", "", "the `URL` that the event was sent to")
	flags.String("scope", "", "the handler's `scope`, if it sets one")
	flags.String("event-type", "", "the event's `type`")
	flags.String("task-id", "", "the event's task_id, any `text`")
	flags.StringArray("field", nil, "another `field` of the event, name=text or name:=JSON; may be repeated")
	flags.String("identity", "", "the event's Idempotency-Key, 32 `hex` digits, instead of all others")
}

// lookup asks for the events that the flags name.
func (c adminClient) lookup() (report eventsReport, err error) {
	which := url.Values{}
	for _, name := range []string{"url", "scope", "identity"} {
		if c.flags.Changed(name) {
			which.Set(name, c.flags.String(name))
		}
	}
	for _, name := range []string{"event-type", "task-id"} {
		if c.flags.Changed(name) {
			which.Add("field", strings.ReplaceAll(name, "-", "_")+"="+c.flags.String(name))
		}
	}
	fields, err := c.flags.GetStringArray("field")
	if err != nil {
		return report, err
	}
	for _, field := range fields {
		which.Add("field", field)
	}
	_, err = c.request(http.MethodGet, adminEvent+"?"+which.Encode(), nil, &report)
	return report, err
}

// exitStatus returns 0 if one of the events was delivered, otherwise the status
// of an event in flight if there is one.
func (report eventsReport) exitStatus() int {
	status := exitUnknown
	for _, ev := range report.Events {
		switch ev.State {
		case stateDelivered:
			return caddy.ExitCodeSuccess
		case stateInFlight:
			status = exitInFlight
		}
	}
	return status
}

func (report eventsReport) print(out io.Writer, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(out).Encode(report)
	}
	for i, ev := range report.Events {
		if i > 0 {
			fmt.Fprintln(out)
		}
		if err := ev.print(out); err != nil {
			return err
		}
	}
	return nil
}

func (ev eventReport) print(out io.Writer) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(name, value string) { fmt.Fprintf(table, "%s:\t%s\n", name, value) }
	if ev.Scope != "" {
		row("scope", ev.Scope)
	}
	for _, name := range slices.Sorted(maps.Keys(ev.Fields)) {
		row(name, ev.Fields[name].String())
	}
	row("state", strings.ReplaceAll(ev.State, "_", " "))
	if !ev.InFlightSince.IsZero() {
		row("since", describeTime(ev.InFlightSince))
	}
	if !ev.DeliveredAt.IsZero() {
		row("delivered", describeTime(ev.DeliveredAt))
		row("backend status", fmt.Sprint(ev.BackendStatus))
	}
	if ev.State == stateDelivered {
		until := "for ever"
		if !ev.ExpiresAt.IsZero() {
			until = "until " + describeTime(ev.ExpiresAt)
		}
		if ev.Unrecorded {
			until += ", but only in memory: it could not be stored"
		}
		row("remembered", until)
	}
	row("identity", ev.Identity)
	return table.Flush()
}
