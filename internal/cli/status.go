package cli

import (
	"fmt"
	"io"
	"net/http"
	"text/tabwriter"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
)

// statusReport is what the admin API answers about the store. Figures that the
// store does not know are left out.
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

func newStatusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Shows how many delivered events the store holds, and whether it works",
		Long:  "Shows how many delivered events the store holds, and whether it works.\n" + adminHelp,
		Example: `  caddy instantapi status
  caddy instantapi status --config /etc/caddy/Caddyfile --json`,
		Args: cobra.NoArgs,
	}
	return adminCommand(cmd, func(admin adminClient, out io.Writer) (int, error) {
		var report statusReport
		raw, err := admin.request(http.MethodGet, "/instantapi_verify/status", nil, &report)
		if err != nil {
			return caddy.ExitCodeFailedStartup, err
		}
		if admin.json {
			_, err := out.Write(raw)
			return caddy.ExitCodeSuccess, err
		}
		return caddy.ExitCodeSuccess, report.print(out)
	})
}

func (report statusReport) print(out io.Writer) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(name, value string) { fmt.Fprintf(table, "%s:\t%s\n", name, value) }
	row("store", report.Store)
	row("options", report.Options)
	if report.NotOpen != "" {
		row("not open", report.NotOpen)
	}
	if report.FiguresError != "" {
		row("no figures", report.FiguresError)
	}
	if report.EventsRemembered != nil {
		row("events", humanize.Comma(*report.EventsRemembered)+" remembered")
		row("size", humanize.IBytes(uint64(report.Bytes)))
	}
	row("in flight", humanize.Comma(int64(report.EventsInFlight)))
	row("unrecorded", humanize.Comma(int64(report.EventsUnrecorded)))
	if report.FreeBytes != nil {
		row("free space", fmt.Sprintf("%s, %s are needed", humanize.IBytes(uint64(*report.FreeBytes)), humanize.IBytes(uint64(report.MinFreeBytes))))
	}
	if report.LastError == nil {
		row("last error", "none")
	} else {
		row("last error", describeTime(report.LastError.At)+": "+report.LastError.Error)
	}
	return table.Flush()
}

func describeTime(t time.Time) string {
	return t.Local().Format(time.RFC3339) + " (" + humanize.Time(t) + ")"
}
