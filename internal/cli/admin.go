package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

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

// request asks the admin API, and reads its answer into answer. It returns the
// answer as it came, too: a newer Caddy may know more than this command.
func (c adminClient) request(method, uri string, question, answer any) (raw []byte, err error) {
	var body io.Reader
	if question != nil {
		encoded, err := json.Marshal(question)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(encoded)
	}
	response, err := caddycmd.AdminAPIRequest(c.address, method, uri, nil, body)
	if err != nil {
		return nil, plainError(err)
	}
	defer response.Body.Close()
	raw, err = io.ReadAll(io.LimitReader(response.Body, maxInput))
	if err != nil {
		return nil, fmt.Errorf("reading the answer of %s: %w", c.address, err)
	}
	if err := json.Unmarshal(raw, answer); err != nil {
		return nil, fmt.Errorf("%s answered with something else than the admin API of instantapi_verify: %w", c.address, err)
	}
	return raw, nil
}

// plainError returns what the admin API says went wrong. Caddy's client wraps it
// as "caddy responded with error: HTTP 400: {"error":"..."}".
func plainError(err error) error {
	_, answer, found := strings.Cut(err.Error(), ": HTTP ")
	status, body, _ := strings.Cut(answer, ": ")
	if !found {
		return err
	}
	var said struct {
		Error string `json:"error"`
	}
	if json.Unmarshal([]byte(body), &said) == nil && said.Error != "" {
		return errors.New(said.Error)
	}
	if status == fmt.Sprint(http.StatusNotFound) {
		return fmt.Errorf("%w: is instantapi_verify in the Caddy that runs, and in this version?", err)
	}
	return err
}
