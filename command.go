package instantapi

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "instantapi",
		Usage: "<command>",
		Short: "Tries, tests and inspects webhook endpoints guarded by instantapi_verify",
		CobraFunc: func(cmd *cobra.Command) {
			cmd.AddCommand(subcommands()...)
		},
	})
}

// subcommands are the commands below "caddy instantapi", each made in the file
// of its own concept.
func subcommands() []*cobra.Command {
	return []*cobra.Command{
		newSandboxCommand(),
	}
}
