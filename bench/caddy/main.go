// Command caddy is the Caddy that is measured: examples/caddy with the naive
// handler. All scenarios run this program.
package main

import (
	"os"
	"runtime"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/instantapi/caddy-instantapi-verify"
	_ "github.com/instantapi/caddy-instantapi-verify/bench/naive"
)

func main() {
	// Only for --profile, because recording every wait costs CPU time.
	if os.Getenv("INSTANTAPI_BENCH_PROFILE") != "" {
		runtime.SetMutexProfileFraction(5)
		runtime.SetBlockProfileRate(10_000)
	}
	caddycmd.Main()
}
