package badger

import (
	"runtime"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
)

// Where Badger does not sync its files, `sync on` is refused with the reason and the
// remedy, and is not the default.
func TestSyncIsPromisedOnlyWhereItIsKept(t *testing.T) {
	caddytest.WantError(t, checkSync(true, false), "sync on", "does not sync its files on Windows", "use sync off")
	for _, accepted := range [][2]bool{{true, true}, {false, true}, {false, false}} {
		if err := checkSync(accepted[0], accepted[1]); err != nil {
			t.Errorf("sync %t where it is kept %t: got %v", accepted[0], accepted[1], err)
		}
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	defer cancel()
	m := &Module{Path: t.TempDir()}
	if err := m.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	if want := runtime.GOOS != "windows"; *m.Sync != want {
		t.Errorf("the default is sync %t, want %t", *m.Sync, want)
	}
	if err := m.Validate(); err != nil {
		t.Errorf("the defaults: got %v", err)
	}
	on := true
	m.Sync = &on
	if err := m.Validate(); (err != nil) != (runtime.GOOS == "windows") {
		t.Errorf("sync on: got %v", err)
	}
}
