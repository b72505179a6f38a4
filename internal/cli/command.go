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
		newBackupCommand(),
		newSandboxCommand(),
	}
}

// withStatus makes a command's RunE of a function that returns an exit status,
// of which only those from 2 count: below, the error decides between 0 and 1. An
// error is for the person at the terminal, so it is printed like cobra's about
// flags, not logged like Caddy's.
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

// noArguments is cobra.NoArgs, except that it does not repeat the argument: it
// may be a secret whose flag was forgotten.
func noArguments(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return errors.New("everything is given with flags here; see --help")
	}
	return nil
}

// flagError does the same for "-secret=..." and "-key=...", which pflag takes for
// flags of one letter and repeats.
func flagError(_ *cobra.Command, err error) error {
	unknown, isUnknown := errors.AsType[*pflag.NotExistError](err)
	invalid, isInvalid := errors.AsType[*pflag.InvalidValueError](err)
	if isUnknown && unknown.GetSpecifiedShortnames() != "" || isInvalid && invalid.GetFlag().Name == insecureFlag {
		return errors.New("flags with a value begin with two dashes; see --help")
	}
	return err
}
