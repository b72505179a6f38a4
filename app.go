package instantapi

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/instantapi/caddy-instantapi-verify/internal/ledger"
	"github.com/instantapi/caddy-instantapi-verify/store"
	"go.uber.org/zap"
)

func init() {
	caddy.RegisterModule(App{})
	// This leaves the main thread to the main goroutine, which in Caddy waits
	// for the process to end. Linux delivers a signal to the main thread first:
	// if a goroutine that waits for the store's disk ran on it, SIGTERM would
	// wait for the disk too.
	runtime.LockOSThread()
}

// App owns the store of delivered events that all `instantapi_verify` handlers
// share. It needs no configuration: it is there as soon as a handler is.
type App struct {
	// Where delivered events are remembered. Default: `{"module": "badger"}`.
	StoreRaw json.RawMessage `json:"store,omitempty" caddy:"namespace=instantapi_verify.stores inline_key=module"`

	store        store.Module
	key, options string       // the store's
	rules        []dedupeRule // of the handlers
	started      bool
}

// CaddyModule returns the Caddy module information.
func (App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "instantapi_verify",
		New: func() caddy.Module { return new(App) },
	}
}

// Provision loads the store's module and opens nothing.
func (a *App) Provision(ctx caddy.Context) error {
	if a.StoreRaw == nil {
		a.StoreRaw = json.RawMessage(`{"module": "badger"}`)
	}
	mod, err := ctx.LoadModule(a, "StoreRaw")
	if err != nil {
		return fmt.Errorf("loading the store: %v", err)
	}
	module, ok := mod.(store.Module)
	if !ok {
		return fmt.Errorf("module %T is not a store", mod)
	}
	a.store = module
	a.key, a.options = module.Key(), module.Options()
	return registerMetrics(ctx)
}

// Validate refuses options that differ from those of the open store. Start
// would refuse them too, but Caddy starts the apps of a config in any order: by
// then the HTTP app could be serving requests without a store.
func (a *App) Validate() (err error) {
	openLedgers.Range(func(key, value any) bool {
		if open, ok := value.(*openLedger); ok && key == a.key {
			err = a.checkOptions(open)
		}
		return err == nil
	})
	return err
}

// checkOptions compares the options of an open store with this config's.
func (a *App) checkOptions(open *openLedger) error {
	if open.options == a.options {
		return nil
	}
	return fmt.Errorf("store %s is open with other options: it has %s, this config asks for %s; restart Caddy to change them",
		open.key, open.options, a.options)
}

// Start opens the store, or joins the one that the previous config has open. A
// fault that a person must mend keeps the config from loading. One that can
// pass by itself, or a slow opening, does not: the other sites are served, and
// the handlers' on_store_error decides until the store is open.
func (a *App) Start() error {
	held, err := a.acquire()
	if err != nil {
		return err
	}
	runningApps.begin(a)
	if err := held.AwaitOpen(); err != nil {
		runningApps.remove(a)
		a.release()
		return err
	}
	a.started = true
	runningApps.add(a)
	return nil
}

// Stop does nothing: requests may still be in flight.
func (a *App) Stop() error { return nil }

// Cleanup releases the store if Start acquired it.
func (a *App) Cleanup() error {
	if !a.started {
		return nil
	}
	runningApps.remove(a)
	a.release()
	return nil
}

// runningApps are the apps that hold a store: usually one, and two while a config
// takes over from another. The last one belongs to the config in force, or about
// to be. The admin API and the metrics, which are part of no config, find the app
// here.
var runningApps appList

type appList struct {
	mu       sync.Mutex
	apps     []*App
	starting *App // waits for its store; counts only if there is no other
}

func (l *appList) begin(a *App) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.starting = a
}

func (l *appList) add(a *App) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.starting = nil
	l.apps = append(l.apps, a)
}

func (l *appList) remove(a *App) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.starting == a {
		l.starting = nil
	}
	l.apps = slices.DeleteFunc(l.apps, func(other *App) bool { return other == a })
}

// acquireRunning is acquire for the admin API and the metrics: it opens nothing. The
// app is nil if none has a store, or is waiting for one; otherwise the caller must
// release it.
func acquireRunning() (*App, *ledger.Ledger) {
	runningApps.mu.Lock()
	defer runningApps.mu.Unlock()
	app := runningApps.starting
	if n := len(runningApps.apps); n > 0 {
		app = runningApps.apps[n-1]
	}
	if app == nil {
		return nil, nil
	}
	held, err := app.acquire()
	if err != nil { // impossible while the app holds it
		return nil, nil
	}
	return app, held
}

// openLedgers holds the ledgers that are open in this process, by the key of
// their store.
var openLedgers = caddy.NewUsagePool()

// openLedger is a ledger in the pool.
type openLedger struct {
	*ledger.Ledger
	key     string
	options string
}

// acquire returns the ledger and holds it open until release is called. The app
// holds it while its config is in force, and each request while it is served: a
// reload does not wait for requests, so a request may outlive its config. A
// request may also come before Start, because Caddy starts the apps of a config
// in any order.
func (a *App) acquire() (*ledger.Ledger, error) {
	value, _, err := openLedgers.LoadOrNew(a.key, func() (caddy.Destructor, error) {
		return openLedgerOf(a.store, a.key, a.options), nil
	})
	if err != nil {
		return nil, err
	}
	open := value.(*openLedger)
	if err := a.checkOptions(open); err != nil {
		a.release()
		return nil, err
	}
	return open.Ledger, nil
}

func openLedgerOf(module store.Module, key, options string) *openLedger {
	locked := false // needs no mutex: the ledger makes one attempt at a time
	open := func(ctx context.Context) (store.Store, error) {
		if !locked {
			if err := lockStorage(ctx, key); err != nil {
				return nil, err
			}
			locked = true
		}
		return module.Open(ctx)
	}
	released := func() {
		if locked {
			unlockStorage(key)
		}
	}
	return &openLedger{ledger.Open(open, released, storeLog, ledgerMetrics), key, options}
}

// release ends the hold on the ledger that acquire returned.
func (a *App) release() {
	if _, err := openLedgers.Delete(a.key); err != nil {
		storeLog().Error(err.Error())
	}
}

// Destruct closes the store when nobody holds it any more. The last holder may
// be a request whose sender waits for the end of its answer, so Destruct does
// not wait until the store is closed, unless the process is about to exit.
func (o *openLedger) Destruct() error {
	if caddy.Exiting() {
		return o.Close()
	}
	go func() {
		if err := o.Close(); err != nil {
			storeLog().Error(err.Error())
		}
	}()
	return nil
}

// storeLog returns the log of the config in force: an open store outlives the
// config that opened it.
func storeLog() *zap.Logger { return caddy.Log().Named("instantapi_verify.store") }

// storages has one lock per storage, held while the storage is open or being
// closed. A ledger leaves the pool before it is closed: without the lock, the
// next user of the same storage would find it in use by this very process.
var storages sync.Map // key → chan struct{} of capacity 1

func lockStorage(ctx context.Context, key string) error {
	lock, _ := storages.LoadOrStore(key, make(chan struct{}, 1))
	select {
	case lock.(chan struct{}) <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func unlockStorage(key string) {
	lock, _ := storages.Load(key)
	<-lock.(chan struct{})
}

// Interface guards
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.Validator    = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)
