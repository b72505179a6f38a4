package cli

import (
	"errors"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "instantapi",
		Usage: "<command>",
		Short: "Tests and inspects webhook endpoints guarded by instantapi_verify",
		CobraFunc: func(cmd *cobra.Command) {
			// Without these two, a mistyped subcommand would exit with 0.
			cmd.Args = cobra.NoArgs
			cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
			cmd.SetFlagErrorFunc(flagError)
			cmd.AddCommand(subcommands()...)
		},
	})
}

// subcommands returns the commands below "caddy instantapi".
func subcommands() []*cobra.Command {
	return []*cobra.Command{
		newSendCommand(),
		newSignCommand(),
		newVerifyCommand(),
		newStatusCommand(),
		newLookupCommand(),
		newForgetCommand(),
		newBackupCommand(),
		newSandboxCommand(),
	}
}

// withStatus turns a function that returns an exit status into a command's RunE.
// A status of 2 or more becomes the process's; below that, the error decides
// between 0 and 1. Errors are printed, as cobra prints those about flags, and not
// logged as Caddy's are: a person at a terminal reads them.
func withStatus(f func(*cobra.Command) (int, error)) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		status, err := f(cmd)
		if status < 2 {
			return err
		}
		if err != nil {
			cmd.PrintErrln(cmd.ErrPrefix(), err)
		}
		cmd.SilenceErrors = true
		return caddycmd.WrapCommandFuncForCobra(func(caddycmd.Flags) (int, error) { return status, nil })(cmd, args)
	}
}

// noArguments is cobra.NoArgs, but its error does not repeat the argument, which
// may be a secret whose flag was forgotten.
func noArguments(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return errors.New("this command takes flags only, no arguments; see --help")
	}
	return nil
}

// flagError keeps values out of errors about flags like "-secret=..." and
// "-key=...": pflag takes them for one-letter flags and repeats what follows.
func flagError(_ *cobra.Command, err error) error {
	unknown, isUnknown := errors.AsType[*pflag.NotExistError](err)
	invalid, isInvalid := errors.AsType[*pflag.InvalidValueError](err)
	if isUnknown && unknown.GetSpecifiedShortnames() != "" || isInvalid && invalid.GetFlag().Name == insecureFlag {
		return errors.New("flags with a value begin with two dashes; see --help")
	}
	return err
}
