package cli

import (
	"io"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/cobra"
)

func newLookupCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "lookup",
		Example: `  caddy instantapi lookup --url https://example.com/webhooks/instantapi --task-id task_1
  caddy instantapi lookup --identity 0123456789abcdef0123456789abcdef`,
		Short: "Shows what happened to an event",
		Long: "Shows whether an event was delivered, is being delivered, or is not known.\n" + whichHelp + "\n" + adminHelp + `

Exit status: 0 if the event was delivered, 4 if it is not known, 5 if it is being
delivered, 1 for an error.`,
		Args: cobra.NoArgs,
	}
	addWhichFlags(cmd)
	return adminCommand(cmd, func(admin adminClient, out io.Writer) (int, error) {
		report, err := admin.lookup()
		if err != nil {
			return caddy.ExitCodeFailedStartup, err
		}
		return report.exitStatus(), report.print(out, admin.json)
	})
}
