// Command caddy is the Caddy that is measured: examples/caddy and the naive
// handler beside it. All scenarios run this one program.
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
	// Only for --profile: watching every wait has a cost of its own.
	if os.Getenv("INSTANTAPI_BENCH_PROFILE") != "" {
		runtime.SetMutexProfileFraction(5)
		runtime.SetBlockProfileRate(10_000)
	}
	caddycmd.Main()
}
