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
			// Without these two a mistyped command would be a success.
			cmd.Args = cobra.NoArgs
			cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
			cmd.SetFlagErrorFunc(flagError)
			cmd.AddCommand(subcommands()...)
		},
	})
}

// subcommands are the commands below "caddy instantapi", each made in the file
// of its own concept.
func subcommands() []*cobra.Command {
	return []*cobra.Command{
		newSendCommand(),
		newSignCommand(),
		newVerifyCommand(),
		newStatusCommand(),
		newLookupCommand(),
		newForgetCommand(),
		newSandboxCommand(),
	}
}
