package instantapi

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"
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

// maxInput is the largest body in bytes that the commands read.
const maxInput = 64 << 20

// maxShown is how many characters are printed of what someone else has written.
const maxShown = 200

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

// flagError does the same for "-secret=...", which pflag takes for one-letter
// flags and repeats.
func flagError(_ *cobra.Command, err error) error {
	if unknown, ok := errors.AsType[*pflag.NotExistError](err); ok && unknown.GetSpecifiedShortnames() != "" {
		return errors.New("flags begin with two dashes; see --help")
	}
	return err
}

// readInput reads the body that a command is about.
func readInput(cmd *cobra.Command, path string) ([]byte, error) {
	in := cmd.InOrStdin()
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("--file: %w", err)
		}
		defer file.Close()
		in = file
	} else if isTerminal(in) {
		fmt.Fprintln(cmd.ErrOrStderr(), "Reading the body from the terminal; --file reads one from a file.")
	}
	body, err := io.ReadAll(io.LimitReader(in, maxInput+1))
	if err != nil {
		return nil, fmt.Errorf("--file: %w", err)
	}
	if len(body) > maxInput {
		return nil, fmt.Errorf("--file: the body is over %d MiB", maxInput>>20)
	}
	return body, nil
}

// isTerminal reports whether a command's input or output is one.
func isTerminal(stream any) bool {
	file, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// printable makes one short line of what someone else has written: no answer may
// move the cursor, and none may fill the screen.
func printable(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
	if short := []rune(s); len(short) > maxShown {
		s = string(short[:maxShown]) + "..."
	}
	return s
}

const secretUsage = "the webhook `secret`"

// credentialFlags are a flag for a credential and one for the environment
// variable that holds it. Their errors don't repeat a value: somebody may have
// mixed the two up.
type credentialFlags struct {
	name              string // of the first flag; the other one has -env at its end
	values, variables []string
}

// candidate is a secret and how to speak of it without saying it.
type candidate struct {
	name, secret string
}

func (c *credentialFlags) register(cmd *cobra.Command, name, usage string) {
	c.name = name
	cmd.Flags().StringArrayVar(&c.values, name, nil,
		usage+"; other users of the machine can see it in the list of processes, so use --"+name+"-env for a real one")
	cmd.Flags().StringArrayVar(&c.variables, name+"-env", nil, "the `name` of an environment variable that holds the "+name)
}

// all returns what was given, none of it empty.
func (c *credentialFlags) all() ([]candidate, error) {
	var all []candidate
	for i, value := range c.values {
		if value == "" {
			return nil, fmt.Errorf("--%s is empty; is the variable set that it is taken from?", c.name)
		}
		name := "the " + c.name
		if len(c.values)+len(c.variables) > 1 {
			name = fmt.Sprintf("--%s number %d", c.name, i+1)
		}
		all = append(all, candidate{name, value})
	}
	for _, variable := range c.variables {
		value := os.Getenv(variable)
		if value == "" {
			return nil, fmt.Errorf("--%s-env: this environment variable is unset or empty; give the name of one, without a $, and export it", c.name)
		}
		all = append(all, candidate{"the " + c.name + " in " + variable, value})
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("give --%[1]s-env or --%[1]s", c.name)
	}
	return all, nil
}

// one returns what was given where there can be only one, or else the default, if
// there is one.
func (c *credentialFlags) one(byDefault string) (string, error) {
	if byDefault != "" && len(c.values)+len(c.variables) == 0 {
		return byDefault, nil
	}
	all, err := c.all()
	if err != nil {
		return "", err
	}
	if len(all) > 1 {
		return "", fmt.Errorf("give one --%[1]s-env or --%[1]s, not several", c.name)
	}
	return all[0].secret, nil
}
