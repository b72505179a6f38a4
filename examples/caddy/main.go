// Command caddy is Caddy with this module, and all of Caddy's own modules:
//
//	go run ./examples/caddy run --config examples/quickstart/Caddyfile
//
// It is what `xcaddy build` writes, for users who have only Go.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/instantapi/caddy-instantapi-verify"
)

func main() { caddycmd.Main() }
