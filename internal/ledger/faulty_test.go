package ledger

import (
	"context"
	"sync"

	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"github.com/instantapi/caddy-instantapi-verify/store"
)

// faultyStore is a store whose faults a test decides.
type faultyStore struct {
	mu      sync.Mutex
	records map[store.Identity]store.Record
	lookup  func(store.Identity) error // called first; may be nil
	record  func(store.Identity) error // likewise
}

func (s *faultyStore) Lookup(_ context.Context, id store.Identity) (store.Record, bool, error) {
	s.mu.Lock()
	lookup := s.lookup
	rec, found := s.records[id]
	s.mu.Unlock()
	if lookup != nil {
		if err := lookup(id); err != nil {
			return store.Record{}, false, err
		}
	}
	return rec, found, nil
}

func (s *faultyStore) Record(_ context.Context, id store.Identity, rec store.Record) error {
	s.mu.Lock()
	record := s.record
	s.mu.Unlock()
	if record != nil {
		if err := record(id); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.records == nil {
		s.records = make(map[store.Identity]store.Record)
	}
	s.records[id] = rec
	return nil
}

func (s *faultyStore) Forget(ctx context.Context, id store.Identity) error {
	if err := s.Record(ctx, id, store.Record{}); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.records, id)
	return nil
}

func (s *faultyStore) Close() error { return nil }

func (s *faultyStore) set(lookup, record func(store.Identity) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lookup, s.record = lookup, record
}

func (s *faultyStore) size() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.records)
}
