package store_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/store"
)

// memory is a store that forgets everything when the process ends.
type memory struct {
	mu      sync.Mutex
	records map[store.Identity]store.Record // nil: closed
}

var errClosed = errors.New("store is closed")

func (m *memory) Lookup(_ context.Context, id store.Identity) (store.Record, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.records == nil {
		return store.Record{}, false, errClosed
	}
	rec, found := m.records[id]
	if found && !rec.ExpiresAt.IsZero() && !time.Now().Before(rec.ExpiresAt) {
		return store.Record{}, false, nil
	}
	return rec, found, nil
}

func (m *memory) Record(_ context.Context, id store.Identity, rec store.Record) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.records == nil {
		return errClosed
	}
	m.records[id] = rec
	return nil
}

func (m *memory) Forget(_ context.Context, id store.Identity) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.records == nil {
		return errClosed
	}
	delete(m.records, id)
	return nil
}

func (m *memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.records = nil
	return nil
}

// The smallest store keeps its records in a map.
func ExampleStore() {
	ctx := context.Background()
	var s store.Store = &memory{records: map[store.Identity]store.Record{}}
	id := store.Identity{15: 1}

	_, found, err := s.Lookup(ctx, id)
	fmt.Println(found, err)
	if err := s.Record(ctx, id, store.Record{DeliveredAt: time.Now(), Status: 200}); err != nil {
		panic(err)
	}
	rec, found, err := s.Lookup(ctx, id)
	fmt.Println(rec.Status, found, err)
	if err := s.Close(); err != nil {
		panic(err)
	}
	_, _, err = s.Lookup(ctx, id)
	fmt.Println(err)
	// Output:
	// false <nil>
	// 200 true <nil>
	// store is closed
}

// The backend gets an event's identity in hex, in the header Idempotency-Key.
func ExampleIdentity_String() {
	fmt.Println(store.Identity{0: 0xab, 15: 1})
	// Output: ab000000000000000000000000000001
}
