package storetest_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/instantapi/caddy-instantapi-verify/store"
	"github.com/instantapi/caddy-instantapi-verify/store/storetest"
)

// A test decides when the store fails. What the store has recorded is kept.
func ExampleFaulty() {
	ctx := context.Background()
	id := store.Identity{1}
	s := new(storetest.Faulty)
	fmt.Println(s.Record(ctx, id, store.Record{Status: 200}))

	s.SetFaults(storetest.Always(errors.New("the disk is gone")), nil)
	_, _, err := s.Lookup(ctx, id)
	fmt.Println(err)

	s.SetFaults(nil, nil)
	_, found, err := s.Lookup(ctx, id)
	fmt.Println(found, err)
	// Output:
	// <nil>
	// the disk is gone
	// true <nil>
}
