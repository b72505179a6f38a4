// Package storetest helps to test stores and what uses them: [Run] is the suite
// that every store must pass, and [Faulty] is a store that fails when a test
// says so.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/instantapi/caddy-instantapi-verify/store"
)

// Fault is called before a [Faulty] store handles a call about an event. If it
// returns an error, the call fails with that error. A fault that hangs should
// do so until the context ends, because the contract of a store demands that.
type Fault func(context.Context, store.Identity) error

// Always returns a fault that fails with this error.
func Always(err error) Fault {
	return func(context.Context, store.Identity) error { return err }
}

// Hang is a fault that lasts until the context ends.
func Hang(ctx context.Context, _ store.Identity) error {
	<-ctx.Done()
	return ctx.Err()
}

// Faulty is a store in memory whose faults a test sets. The zero value is
// empty, open and works.
type Faulty struct {
	mu      sync.Mutex
	records map[store.Identity]store.Record
	lookup  Fault                       // nil: none
	record  Fault                       // likewise; also when an event is forgotten
	open    func(context.Context) error // likewise
	closed  bool
	name    string // in a configuration
}

var errClosed = errors.New("store is closed")

// SetFaults sets the faults of further calls: one for looking up, and one for
// recording and forgetting. Nil means no fault.
func (f *Faulty) SetFaults(lookup, record Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lookup, f.record = lookup, record
}

// SetOpenFault sets a function that is called before the store is opened. Its
// error becomes that of [store.Module.Open]. Nil means no fault.
func (f *Faulty) SetOpenFault(fault func(context.Context) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open = fault
}

// Records returns what is recorded.
func (f *Faulty) Records() map[store.Identity]store.Record {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.records)
}

// SetRecords replaces what is recorded, regardless of the faults.
func (f *Faulty) SetRecords(records map[store.Identity]store.Record) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.records = maps.Clone(records)
}

// Lookup implements [store.Store].
func (f *Faulty) Lookup(ctx context.Context, id store.Identity) (store.Record, bool, error) {
	f.mu.Lock()
	fault := f.lookup
	f.mu.Unlock()
	if err := run(ctx, id, fault); err != nil {
		return store.Record{}, false, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return store.Record{}, false, errClosed
	}
	rec, found := f.records[id]
	if found && !rec.ExpiresAt.IsZero() && !rec.ExpiresAt.After(time.Now()) {
		return store.Record{}, false, nil
	}
	return rec, found, nil
}

// Record implements [store.Store].
func (f *Faulty) Record(ctx context.Context, id store.Identity, rec store.Record) error {
	return f.change(ctx, id, func() {
		if f.records == nil {
			f.records = make(map[store.Identity]store.Record)
		}
		f.records[id] = rec
	})
}

// Forget implements [store.Store].
func (f *Faulty) Forget(ctx context.Context, id store.Identity) error {
	return f.change(ctx, id, func() { delete(f.records, id) })
}

func (f *Faulty) change(ctx context.Context, id store.Identity, change func()) error {
	f.mu.Lock()
	fault := f.record
	f.mu.Unlock()
	if err := run(ctx, id, fault); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return errClosed
	}
	change()
	return nil
}

func run(ctx context.Context, id store.Identity, fault Fault) error {
	if fault != nil {
		if err := fault(ctx, id); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// Close implements [store.Store]. The records are kept for the next opening.
func (f *Faulty) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	return nil
}

// Caddyfile returns the line that makes a configuration use this store.
func (f *Faulty) Caddyfile() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.name == "" {
		f.name = fmt.Sprint(stores.Add(1))
		byName.Store(f.name, f)
	}
	return "store faulty " + f.name
}

var (
	stores atomic.Int64
	byName sync.Map // → *Faulty
)

func init() { caddy.RegisterModule(FaultyModule{}) }

// FaultyModule makes a configuration use a [Faulty], see [Faulty.Caddyfile].
type FaultyModule struct {
	Name string `json:"name"`
}

// CaddyModule returns the Caddy module information.
func (FaultyModule) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "instantapi_verify.stores.faulty", New: func() caddy.Module { return new(FaultyModule) }}
}

// UnmarshalCaddyfile reads the store's name.
func (m *FaultyModule) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the module's own
	if !d.AllArgs(&m.Name) {
		return d.ArgErr()
	}
	return nil
}

// Key implements [store.Module].
func (m *FaultyModule) Key() string { return "faulty:" + m.Name }

// Options implements [store.Module].
func (m *FaultyModule) Options() string { return "" }

// Open implements [store.Module].
func (m *FaultyModule) Open(ctx context.Context) (store.Store, error) {
	value, there := byName.Load(m.Name)
	if !there {
		return nil, fmt.Errorf("no store %s", m.Name)
	}
	f := value.(*Faulty)
	f.mu.Lock()
	fault := f.open
	f.mu.Unlock()
	if fault != nil {
		if err := fault(ctx); err != nil {
			return nil, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = false
	return f, nil
}

// Interface guards
var (
	_ store.Store  = (*Faulty)(nil)
	_ store.Module = (*FaultyModule)(nil)
)
