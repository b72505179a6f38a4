package storetest

import (
	"context"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/store"
)

// bound is how long a call may take. The contract names no figure; senders wait
// for a few seconds, and test machines are slow.
const bound = 15 * time.Second

// opened is a store under test. A call that takes too long fails the test.
type opened struct {
	t *testing.T
	store.Store
}

// within calls f, and fails the test if that takes longer than the bound.
func (o opened) within(what string, f func()) {
	o.t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(bound):
		o.t.Fatalf("%s has no answer after %s", what, bound)
	}
}

func (o opened) mustRecord(id store.Identity, rec store.Record) {
	o.t.Helper()
	o.within("recording", func() {
		if err := o.Record(context.Background(), id, rec); err != nil {
			o.t.Errorf("recording: %v", err)
		}
	})
}

func (o opened) mustForget(id store.Identity) {
	o.t.Helper()
	o.within("forgetting", func() {
		if err := o.Forget(context.Background(), id); err != nil {
			o.t.Errorf("forgetting: %v", err)
		}
	})
}

func (o opened) mustClose() {
	o.t.Helper()
	o.within("closing", func() {
		if err := o.Close(); err != nil {
			o.t.Errorf("closing: %v", err)
		}
	})
}

// wantKnown fails the test unless the event has this record.
func (o opened) wantKnown(id store.Identity, want store.Record) {
	o.t.Helper()
	o.within("looking up", func() {
		got, found, err := o.Lookup(context.Background(), id)
		if err != nil || !found {
			o.t.Errorf("recorded event: found %t, error %v", found, err)
			return
		}
		if !got.DeliveredAt.Equal(want.DeliveredAt) || !got.ExpiresAt.Equal(want.ExpiresAt) || got.ExpiresAt.IsZero() != want.ExpiresAt.IsZero() ||
			got.Status != want.Status || got.BodyHash != want.BodyHash {
			o.t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

func (o opened) wantUnknown(id store.Identity) {
	o.t.Helper()
	o.within("looking up", func() {
		if rec, found, err := o.Lookup(context.Background(), id); err != nil || found {
			o.t.Errorf("unknown event: found %t (%+v), error %v", found, rec, err)
		}
	})
}

// wantClosed fails the test unless every call to the closed store fails.
func (o opened) wantClosed(id store.Identity) {
	o.t.Helper()
	ctx := context.Background()
	o.within("asking a closed store", func() {
		if _, found, err := o.Lookup(ctx, id); err == nil {
			o.t.Errorf("looking up in a closed store: found %t, and no error", found)
		}
		if err := o.Record(ctx, id, delivery()); err == nil {
			o.t.Error("recording in a closed store: no error")
		}
		if err := o.Forget(ctx, id); err == nil {
			o.t.Error("forgetting in a closed store: no error")
		}
		if reader, ok := o.Store.(store.StatisticsReader); ok {
			if _, err := reader.Statistics(ctx); err == nil {
				o.t.Error("statistics of a closed store: no error")
			}
		}
		if backuper, ok := o.Store.(store.Backuper); ok {
			if _, err := backuper.Backup(ctx, o.t.TempDir()); err == nil {
				o.t.Error("backup of a closed store: no error")
			}
		}
		_ = o.Close() // the second time; it may fail, but not panic
	})
}
