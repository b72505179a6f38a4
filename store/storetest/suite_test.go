package storetest

import (
	"context"
	"testing"

	"github.com/instantapi/caddy-instantapi-verify/store"
)

// The faulty store keeps the contract as long as no fault is set.
func TestFaultyStoreIsAStore(t *testing.T) {
	RunDurable(t, func(*testing.T) store.Store { return new(Faulty) }, reopen)
}

func reopen(t *testing.T, closed store.Store) store.Store {
	f := closed.(*Faulty)
	f.Caddyfile() // gives it its name
	s, err := (&FaultyModule{Name: f.name}).Open(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return s
}
