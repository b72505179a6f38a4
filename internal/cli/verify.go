package cli

import (
	"fmt"

	"github.com/instantapi/caddy-instantapi-verify/internal/cli/diagnosis"
	"github.com/spf13/cobra"
)

// exitInvalid is the exit status of `caddy instantapi verify` for a wrong
// signature. Any other error is 1, as for all of Caddy's commands.
const exitInvalid = 2

func newVerifyCommand() *cobra.Command {
	var (
		secrets   credentialFlags
		file, sig string
	)
	cmd := &cobra.Command{
		Use:   "verify --signature <hex> (--secret <secret> | --secret-env <name>)... [--file <path>]",
		Short: "Checks the signature of a body, and explains why it is wrong",
		Long: `Checks a signature as the guard does. If it is wrong, the command looks for the
reason: it tries changes that bodies and secrets often suffer, and says with which
of them the signature would be right, and what to do about it.

  text        a newline lost or added, CR LF for LF, a byte order mark, UTF-16,
              UTF-8 read or written as Latin-1, lost characters, decomposed accents
  JSON        rewritten by JavaScript, Python, Go, Rails, Gson, PHP, .NET or a
              database: its white space, escapes, numbers and order of keys
  packing     gzip, zlib, deflate, base64, hex, JSON in a JSON string, a form
  secret      white space or quotes around it, base64 or hex that one side decodes,
              whsec_ in front, not set at all
  signature   base64 for hex, a plain SHA-256 for an HMAC

The command finds two of these in combination for bodies of up to 32 KiB. It never
prints the right signature; "caddy instantapi sign" does.

Exit status: 0 if the signature is right for any of the secrets, ` + fmt.Sprint(exitInvalid) + ` if it is not,
1 if it could not be checked.`,
		Example: `  caddy instantapi verify --secret-env INSTANTAPI_WEBHOOK_SECRET --file event.json \
    --signature 05b3...
  caddy instantapi verify --secret-env OLD_SECRET --secret-env NEW_SECRET \
    --signature 05b3... < event.json`,
		Args:                  noArguments,
		DisableFlagsInUseLine: true,
	}
	secrets.register(cmd, "secret", secretUsage)
	cmd.Flags().StringVar(&file, "file", "-", "the `path` of a file with the body as it was received, or - for standard input")
	cmd.Flags().StringVar(&sig, "signature", "", "the value of the signature header, 64 `hex` digits")
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
		verdict := diagnosis.Of(body, sig, candidates)
		fmt.Fprintln(cmd.OutOrStdout(), verdict.Text)
		if !verdict.Valid {
			return exitInvalid, nil
		}
		return 0, nil
	})
	return cmd
}
