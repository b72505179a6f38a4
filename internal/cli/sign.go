package cli

import (
	"fmt"

	"github.com/instantapi/caddy-instantapi-verify/signature"
	"github.com/spf13/cobra"
)

func newSignCommand() *cobra.Command {
	var (
		secrets credentialFlags
		file    string
	)
	cmd := &cobra.Command{
		Use:   "sign (--secret <secret> | --secret-env <name>) [--file <path>]",
		Short: "Prints the signature of a body",
		Long: `Prints what InstantAPI puts into the signature header for a body: the
HMAC-SHA256 of exactly its bytes, in hex. A newline at the end of the file is one
of these bytes.

Exit status: 0, or 1 if the body can't be signed.`,
		Example: `  caddy instantapi sign --secret-env INSTANTAPI_WEBHOOK_SECRET --file event.json
  printf %s '{"task_id":"1"}' | caddy instantapi sign --secret demo-secret`,
		Args:                  noArguments,
		DisableFlagsInUseLine: true,
	}
	secrets.register(cmd, "secret", secretUsage)
	cmd.Flags().StringVar(&file, "file", "-", "the `path` of a file with the body, or - for standard input")
	cmd.RunE = withStatus(func(cmd *cobra.Command) (int, error) {
		secret, err := secrets.one("")
		if err != nil {
			return 1, err
		}
		body, err := readInput(cmd, file)
		if err != nil {
			return 1, err
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), signature.Sign(secret, body))
		return 0, err
	})
	return cmd
}
