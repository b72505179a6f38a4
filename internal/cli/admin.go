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
The command asks the admin endpoint of the running Caddy, by default at
` + caddy.DefaultAdminListen + `. For another address, give --address, or --config to read
the address from your configuration.`

// adminClient asks the admin endpoint of a running Caddy.
type adminClient struct {
	address string
	flags   caddycmd.Flags
	json    bool
}

// adminCommand makes cmd run a function with an [adminClient], and adds the flags
// of Caddy's own commands that use the admin endpoint.
func adminCommand(cmd *cobra.Command, run func(admin adminClient, out io.Writer) (exitStatus int, err error)) *cobra.Command {
	flags := cmd.Flags()
	flags.Bool("json", false, "print the admin API's JSON")
	flags.String("address", "", "the `address` of the admin endpoint, if it is not the default")
	flags.StringP("config", "c", "", "the `path` of a configuration that has the address, instead of --address")
	flags.StringP("adapter", "a", "", "the `name` of the adapter that reads the configuration")
	cmd.RunE = withStatus(func(cmd *cobra.Command) (int, error) {
		flags := caddycmd.Flags{FlagSet: cmd.Flags()}
		address, err := caddycmd.DetermineAdminAPIAddress(flags.String("address"), nil, flags.String("config"), flags.String("adapter"))
		if err != nil {
			return caddy.ExitCodeFailedStartup, fmt.Errorf("finding the address of the admin endpoint: %w", err)
		}
		admin := adminClient{address: address, flags: flags, json: flags.Bool("json")}
		return run(admin, cmd.OutOrStdout())
	})
	return cmd
}

// request sends a request to the admin API, with question as its body unless
// that is nil, and decodes the answer. It also returns the answer's bytes, for
// --json: a newer Caddy may say more than this command knows.
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
		return nil, fmt.Errorf("%s does not answer like the admin API of instantapi_verify: %w", c.address, err)
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
		return fmt.Errorf("%w: does the running Caddy have this version of instantapi_verify?", err)
	}
	return err
}
