package instantapi

import (
	"testing"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
)

func TestMain(m *testing.M) {
	caddytest.Main(m, caddytest.Hooks{BeforeSite: allowLogLines, AfterStop: waitForClosedStores})
}

// allowLogLines resets the limits that an earlier test may have used up.
func allowLogLines() {
	for _, o := range outcomes {
		o.reportSuppressed()
		o.lines.rate = newLineLimit(nil).rate
	}
}

// waitForClosedStores waits until all stores of this process are closed.
func waitForClosedStores(t testing.TB) {
	t.Helper()
	caddytest.Eventually(t, "stores are closed", func() bool {
		open := false
		storages.Range(func(_, lock any) bool {
			open = open || len(lock.(chan struct{})) > 0
			return true
		})
		return !open
	})
}
