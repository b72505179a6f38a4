package badger

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/caddyserver/caddy/v2"
	"github.com/dustin/go-humanize"
	"github.com/instantapi/caddy-instantapi-verify/store"
)

func init() {
	caddy.RegisterModule(Module{})
}

// Module remembers delivered events in a [Badger](https://github.com/dgraph-io/badger)
// database that is part of Caddy's own process: there is nothing to install and
// nothing to run beside Caddy. The directory belongs to one Caddy process.
type Module struct {
	// The directory of the database. It is made if it is missing. Placeholders
	// like `{env.*}` are allowed. Default: the directory `instantapi_verify` in
	// [Caddy's data
	// directory](https://caddyserver.com/docs/conventions#data-directory).
	Path string `json:"path,omitempty"`

	// Whether a delivered event is on the disk before its sender gets the
	// answer. If it is off, a power cut or a crash of the operating system can
	// make the store forget the deliveries of the last moments, and these
	// events are forwarded again if they are sent again; a crash of Caddy alone
	// makes it forget nothing. Default: `true`, but `false` on Windows, where
	// the database can't sync its files.
	Sync *bool `json:"sync,omitempty"`

	// How many bytes must be free in the file system for an event to be
	// recorded. With less free space the handlers' `on_store_error` decides.
	// The minimum is 33554432 (32 MiB), which the database may need for itself.
	// Default: 268435456 (256 MiB).
	MinFreeSpace int64 `json:"min_free_space,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (Module) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "instantapi_verify.stores.badger",
		New: func() caddy.Module { return new(Module) },
	}
}

const (
	defaultMinFreeSpace = 256 << 20

	// lowestMinFreeSpace covers what the database writes between two checks of
	// the free space: its log, the tables made of two full memtables, and what
	// a compaction writes before it deletes its input.
	lowestMinFreeSpace = 32 << 20
)

// Provision sets the defaults. It opens nothing, so that a config can be
// validated beside the server that has the store open.
func (m *Module) Provision(ctx caddy.Context) error {
	if m.Path == "" {
		m.Path = filepath.Join(caddy.AppDataDir(), "instantapi_verify")
	}
	path, err := caddy.NewReplacer().ReplaceOrErr(m.Path, true, true)
	if err != nil {
		return fmt.Errorf("path: %v", err)
	}
	if m.Path, err = filepath.Abs(path); err != nil {
		return fmt.Errorf("path: %v", err)
	}
	if m.Sync == nil {
		on := syncs
		m.Sync = &on
	}
	if m.MinFreeSpace == 0 {
		m.MinFreeSpace = defaultMinFreeSpace
	}
	return registerMetrics(ctx)
}

// Validate checks the values.
func (m *Module) Validate() error {
	if err := checkSync(*m.Sync, syncs); err != nil {
		return err
	}
	if m.MinFreeSpace < lowestMinFreeSpace {
		return fmt.Errorf("min_free_space: %d bytes is too little; the database itself may need %s",
			m.MinFreeSpace, humanize.IBytes(lowestMinFreeSpace))
	}
	return nil
}

// checkSync refuses what the system can't keep.
func checkSync(on, syncs bool) error {
	if on && !syncs {
		return errors.New("sync on: the database does not sync its files on Windows, so a power cut could make it forget deliveries all the same; use sync off")
	}
	return nil
}

// Key names the directory: two configs with the same key share an open store.
func (m *Module) Key() string { return "badger:" + m.Path }

// Options describes the options that an open store can't change.
func (m *Module) Options() string {
	sync := "off"
	if *m.Sync {
		sync = "on"
	}
	return fmt.Sprintf("sync %s, min_free_space %s", sync, humanize.IBytes(uint64(m.MinFreeSpace)))
}

// Open opens the database. Its errors name the directory and the remedy.
func (m *Module) Open(ctx context.Context) (store.Store, error) {
	opened, err := m.open(ctx)
	if err != nil {
		return nil, fmt.Errorf("store directory %s: %w", m.Path, err)
	}
	return opened, nil
}

func (m *Module) open(ctx context.Context) (*database, error) {
	if err := awaitClosed(ctx, m.Path); err != nil {
		return nil, err
	}
	return openBadger(ctx, m.Path, *m.Sync, uint64(m.MinFreeSpace), freeSpace)
}

// Interface guards
var (
	_ caddy.Provisioner = (*Module)(nil)
	_ caddy.Validator   = (*Module)(nil)
	_ store.Module      = (*Module)(nil)
)
