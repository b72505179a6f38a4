//go:build 386 || arm || mips || mipsle

package faultfs

import (
	"encoding/json"
	"os"
)

// serve says that there is no file system: go-fuse does not build for 32 bits.
func serve(string, string) int {
	_ = json.NewEncoder(os.Stdout).Encode(reply{Error: "the FUSE library does not build for 32 bits"})
	return 1
}
