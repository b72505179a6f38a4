package badger

import (
	"testing"

	"github.com/instantapi/caddy-instantapi-verify/store"
	"github.com/instantapi/caddy-instantapi-verify/store/storetest"
)

// The store keeps the contract of all stores.
func TestStoreKeepsTheContract(t *testing.T) {
	for name, sync := range map[string]bool{"sync on": true, "sync off": false} {
		t.Run(name, func(t *testing.T) {
			open := func(t *testing.T, path string) store.Store {
				t.Helper()
				s, err := openBadger(ctx, path, sync, lowestMinFreeSpace, freeSpace)
				if err != nil {
					t.Fatal(err)
				}
				return s
			}
			storetest.RunDurable(t,
				func(t *testing.T) store.Store { return open(t, t.TempDir()) },
				func(t *testing.T, closed store.Store) store.Store { return open(t, closed.(*database).path) })
		})
	}
}
