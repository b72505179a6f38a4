package cli

import (
	"fmt"

	"github.com/spf13/cobra"
)

// exitInvalid is the exit status of `caddy instantapi verify` for a signature
// that is not right. 1 is what Caddy's commands give for any other error.
const exitInvalid = 2

func newVerifyCommand() *cobra.Command {
	var (
		secrets   credentialFlags
		file, sig string
	)
	cmd := &cobra.Command{
		Use:   "verify --signature <hex> (--secret <secret> | --secret-env <name>)... [--file <path>]",
		Short: "Checks the signature of a body, and says why it fails",
		Long: `Checks a signature as the guard does. If it is not right, the command looks for
the reason: it tries what often happens to a body on its way (JSON written anew, a
newline lost or added, another encoding) and to a secret (a newline at its end,
quotes around it), and says with which of them the signature would be right. It
never prints the right signature; "caddy instantapi sign" does.

Exit status: 0 if the signature is right with any of the secrets, ` + fmt.Sprint(exitInvalid) + ` if it is not,
1 where it could not be checked.`,
		Example: `  caddy instantapi verify --secret-env INSTANTAPI_WEBHOOK_SECRET --file event.json \
    --signature 05b3...`,
		Args: noArguments,
	}
	secrets.register(cmd, "secret", secretUsage)
	cmd.Flags().StringVar(&file, "file", "-", "`path` of the file with the body, as it was received; - is standard input")
	cmd.Flags().StringVar(&sig, "signature", "", "the signature header's value, in `hex`")
	_ = cmd.MarkFlagRequired("signature") // fails only for a flag that is not there
	cmd.RunE = withStatus(func(cmd *cobra.Command) (int, error) {
		candidates, err := secrets.all()
		if err != nil {
			return 1, err
		}
		body, err := readInput(cmd, file)
		if err != nil {
			return 1, err
		}
		found := diagnose(body, sig, candidates)
		fmt.Fprintln(cmd.OutOrStdout(), found.text)
		if !found.valid {
			return exitInvalid, nil
		}
		return 0, nil
	})
	return cmd
}
