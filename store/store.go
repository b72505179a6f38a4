// Package store is the contract between the guard and whatever remembers
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

// Identity says which event a body is: two bodies of one identity are the same
// event. It is a SHA-256 cut to 128 bits; among ten million events, two share an
// identity with a probability of 10^-25.
type Identity [16]byte

// String returns the identity in hex, as the backend gets it in the header
// Idempotency-Key.
func (id Identity) String() string { return hex.EncodeToString(id[:]) }

// Record is what is remembered of a delivered event.
type Record struct {
	DeliveredAt time.Time // to the second
	ExpiresAt   time.Time // to the second; zero: remembered for ever
	Status      int       // the backend's, 200 to 299
	BodyHash    uint64    // not a cryptographic one: the bytes were authentic
}

// Store remembers delivered events. Its methods are called concurrently.
//
// Every method returns within a bounded time, whatever its disk or its engine
// does, and no later than its context ends. A method that gives up returns an
// error; what it began may still be carried out.
type Store interface {
	// Lookup returns the record of an event. An unknown event is not an error:
	// it means that the store is ready to record the event now. An error means
	// that the store can't say, or that it could not record the event; it is
	// [ErrCannotRecord] if only the latter.
	Lookup(context.Context, Identity) (rec Record, found bool, err error)

	// Record remembers an event, and returns when that is as durable as the
	// store was configured to make it. Recording an event again replaces its
	// record.
	Record(context.Context, Identity, Record) error

	// Forget makes an event new again, as durably as Record makes it known.
	// Forgetting an unknown event is not an error.
	Forget(context.Context, Identity) error

	// Close makes what was recorded durable and lets go of the storage.
	io.Closer
}

// ErrCannotRecord means that a store knows nothing of an event and could not
// record it now, for example because its disk is full.
var ErrCannotRecord = errors.New("store can't record events now")

// ErrUnavailable means that a store can't be opened now, and that this may pass
// without anybody changing the configuration: there is no space, or an engine
// can't be reached. Caddy starts all the same and opens the store when it can.
// Any other error of [Module.Open] makes the configuration fail to load.
var ErrUnavailable = errors.New("store is unavailable")

// Module is a guest module in the namespace `instantapi_verify.stores`: the
// configuration of a [Store].
type Module interface {
	// Key names the storage. Configurations that name the same storage share
	// one open store, so that a reload neither closes nor reopens it.
	Key() string

	// Options describes, for people, what can't be changed while it is open.
	Options() string

	// Open opens the storage. The error names the storage, the cause and the
	// remedy, and is [ErrUnavailable] if the cause may pass by itself. The
	// store must not keep anything of the configuration that opened it.
	Open(context.Context) (Store, error)
}

// Statistics are a store's figures, for people and for dashboards.
type Statistics struct {
	// Events is how many events are in the store. One that has expired, or was
	// forgotten, may count for as long as it takes up space.
	Events int64

	// Bytes is what they take up.
	Bytes int64

	// FreeBytes is the room that is left, MinFreeBytes the room below which the
	// store refuses events. Where MinFreeBytes is 0 the store knows neither.
	FreeBytes, MinFreeBytes int64
}

// StatisticsReader is a [Store] that knows its figures.
type StatisticsReader interface {
	// Statistics is called when somebody looks, and never for a request to a
	// guarded endpoint. Like all methods of a store it returns within a bounded
	// time.
	Statistics(context.Context) (Statistics, error)
}

// Backuper is a [Store] that can copy itself while it is in use.
type Backuper interface {
	// Backup writes a copy into a directory, as a store of the same kind that can be
	// opened there. It has all events whose Record had returned before, and may
	// have later ones. The directory must be new or empty, else the error is
	// [ErrBackupDirectory]. Unlike the other methods this takes as long as the copying
	// does; it ends early when its context does, and when the store is closed. What is
	// left of a copy that failed can't be opened.
	Backup(ctx context.Context, directory string) (BackupReport, error)
}

// BackupReport says what was copied.
type BackupReport struct {
	Events int64
	Bytes  int64 // that they take up
}

// ErrBackupDirectory means that a directory is not one for a copy of the store.
var ErrBackupDirectory = errors.New("the backup can't be made there")
