package cli

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

var adminHelp = `
By default the command asks the admin endpoint at '` + caddy.DefaultAdminListen + `'.
Give --address, or --config to find the address in your config, if yours is
another.`

// adminClient asks a running Caddy.
type adminClient struct {
	address string
	flags   caddycmd.Flags
	json    bool
}

// adminCommand makes run the command's, with the flags that Caddy's own commands
// have.
func adminCommand(cmd *cobra.Command, run func(admin adminClient, out io.Writer) (exitStatus int, err error)) *cobra.Command {
	flags := cmd.Flags()
	flags.Bool("json", false, "print JSON, as the admin API does")
	flags.String("address", "", "the `address` of Caddy's admin endpoint, if it is not the default")
	flags.StringP("config", "c", "", "the `path` of the configuration, to find the address in, without --address")
	flags.StringP("adapter", "a", "", "the `name` of the configuration's adapter")
	cmd.RunE = withStatus(func(cmd *cobra.Command) (int, error) {
		flags := caddycmd.Flags{FlagSet: cmd.Flags()}
		address, err := caddycmd.DetermineAdminAPIAddress(flags.String("address"), nil, flags.String("config"), flags.String("adapter"))
		if err != nil {
			return caddy.ExitCodeFailedStartup, fmt.Errorf("couldn't determine admin API address: %v", err)
		}
		admin := adminClient{address: address, flags: flags, json: flags.Bool("json")}
		return run(admin, cmd.OutOrStdout())
	})
	return cmd
}

func (c adminClient) request(method, uri string, answer any) error {
	response, err := caddycmd.AdminAPIRequest(c.address, method, uri, nil, nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(answer); err != nil {
		return fmt.Errorf("reading the answer of %s: %w", c.address, err)
	}
	return nil
}
