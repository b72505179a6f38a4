package cli

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/cobra"
)

func newForgetCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "forget",
		Example: "  caddy instantapi forget --url https://example.com/webhooks/instantapi --task-id task_1",
		Short:   "Forgets a delivered event, so that it is forwarded if it is sent again",
		Long: `Forgets a delivered event, so that the guard forwards it if it is sent again,
for example from InstantAPI's dashboard.
` + whichHelp + "\n" + adminHelp + `

Exit status: 0 if the event is forgotten, 4 if it is not known, 5 if it is being
delivered, 1 for an error.`,
		Args: cobra.NoArgs,
	}
	addWhichFlags(cmd)
	return adminCommand(cmd, func(admin adminClient, out io.Writer) (int, error) {
		report, err := admin.lookup()
		if err != nil {
			return caddy.ExitCodeFailedStartup, err
		}
		delivered := slices.DeleteFunc(slices.Clone(report.Events), func(ev eventReport) bool { return ev.State != stateDelivered })
		switch len(delivered) {
		case 0:
			return report.exitStatus(), report.print(out, admin.json)
		case 1:
		default:
			return caddy.ExitCodeFailedStartup, errors.New("more than one event was delivered; give --event-type, or --identity, to forget one")
		}
		which := url.Values{"identity": {delivered[0].Identity}}
		if _, err := admin.request(http.MethodDelete, adminEvent+"?"+which.Encode(), nil, new(eventsReport)); err != nil {
			return caddy.ExitCodeFailedStartup, err
		}
		delivered[0].State = stateForgotten
		return caddy.ExitCodeSuccess, eventsReport{delivered}.print(out, admin.json)
	})
}
