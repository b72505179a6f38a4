// Package store is the contract between the guard and the store that remembers
// delivered events for it. A new kind of store implements [Module] and [Store],
// and must pass the suite in store/storetest.
package store

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"time"
)

// Identity identifies an event: two bodies with the same identity are the same
// event. It is a SHA-256 cut to 128 bits; among ten million events, two share
// an identity with a probability of 10^-25.
type Identity [16]byte

// String returns the identity in hex, as the backend gets it in the header
// Idempotency-Key.
func (id Identity) String() string { return hex.EncodeToString(id[:]) }

// Record is what is remembered of a delivered event.
type Record struct {
	DeliveredAt time.Time // to the second
	ExpiresAt   time.Time // to the second; zero: never
	Status      int       // the backend's, 200 to 299
	BodyHash    uint64    // not cryptographic, because the bytes are authentic
}

// Store remembers delivered events. Its methods are called concurrently.
//
// Every method returns within a bounded time, whatever the disk or the engine
// does, and no later than when its context ends. A method that gives up returns
// an error; what it began may still be carried out.
//
// After Close every method returns an error.
type Store interface {
	// Lookup returns the record of an event. An event whose record has expired is
	// unknown. An unknown event is not an error:
	// it means that the store is ready to record the event now. An error means
	// that the store can't tell whether it knows the event. The error
	// [ErrCannotRecord] means that it does not know the event, and could not
	// record it now.
	Lookup(context.Context, Identity) (rec Record, found bool, err error)

	// Record remembers an event, and returns once the record is as durable as
	// the store is configured to make it. Recording an event again replaces its
	// record.
	Record(context.Context, Identity, Record) error

	// Forget makes an event new again, as durably as Record makes it known.
	// Forgetting an unknown event is not an error.
	Forget(context.Context, Identity) error

	// Close makes what was recorded durable and releases the storage. It waits
	// for calls that are still reading. A second Close must not panic.
	io.Closer
}

// ErrCannotRecord means that a store knows nothing of an event and could not
// record it now, for example because its disk is full.
var ErrCannotRecord = errors.New("store can't record events now")

// ErrUnavailable means that a store can't be opened now, and that the cause may
// pass without a change of the configuration: there is no space, or an engine
// can't be reached. Caddy starts all the same and opens the store when it can.
// With any other error of [Module.Open] the configuration fails to load.
var ErrUnavailable = errors.New("store is unavailable")

// Module is a guest module in the namespace `instantapi_verify.stores`: the
// configuration of a [Store].
type Module interface {
	// Key names the storage. Configurations that name the same storage share
	// one open store, so that a reload neither closes nor reopens it.
	Key() string

	// Options describes, for people, the options that can't be changed while
	// the storage is open.
	Options() string

	// Open opens the storage. The error names the storage, the cause and the
	// remedy, and is [ErrUnavailable] if the cause may pass by itself. The
	// store outlives the configuration that opened it, so it must not keep that
	// configuration's logger or context.
	Open(context.Context) (Store, error)
}

// Statistics are a store's figures, for people and for dashboards.
type Statistics struct {
	// Events is the number of events in the store. An expired or forgotten
	// event may count until its space is reclaimed.
	Events int64

	// Bytes is the size of the store.
	Bytes int64

	// FreeBytes is the free space in bytes, and MinFreeBytes the free space
	// below which the store refuses events. If MinFreeBytes is 0 the store
	// knows neither.
	FreeBytes, MinFreeBytes int64
}

// StatisticsReader is a [Store] that can report statistics.
type StatisticsReader interface {
	// Statistics is called for the status page and the metrics, and never for a
	// request to a guarded endpoint. Like all methods of a store it returns
	// within a bounded time.
	Statistics(context.Context) (Statistics, error)
}

// Backuper is a [Store] that can copy itself while it is in use.
type Backuper interface {
	// Backup writes a copy of the store into a directory, as a store of the
	// same kind that can be opened there. The copy has all events whose Record
	// had returned before, and may have later ones. The directory must be new
	// or empty, otherwise the error is [ErrBackupDirectory]. Unlike the other
	// methods, Backup takes as long as the copying does; it ends early when its
	// context ends or the store is closed. What a failed copy leaves behind
	// can't be opened.
	Backup(ctx context.Context, directory string) (BackupReport, error)
}

// BackupReport says what was copied.
type BackupReport struct {
	Events int64
	Bytes  int64 // size of the copy
}

// ErrBackupDirectory means that a directory can't take a copy of the store.
var ErrBackupDirectory = errors.New("the backup can't be made there")
