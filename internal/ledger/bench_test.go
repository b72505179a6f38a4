package ledger

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/store"
)

// BenchmarkClaim measures the ledger alone, with a store that costs next to
// nothing: new events, each with one caller or with all callers on the same
// one, from the claim to its end, and known events.
func BenchmarkClaim(b *testing.B) {
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("own-events/callers=%d", callers), func(b *testing.B) {
			claimConcurrently(b, callers, quickID, false)
		})
		b.Run(fmt.Sprintf("one-event/callers=%d", callers), func(b *testing.B) {
			claimConcurrently(b, callers, func() store.Identity { return store.Identity{1} }, false)
		})
		b.Run(fmt.Sprintf("known/callers=%d", callers), func(b *testing.B) {
			claimConcurrently(b, callers, func() store.Identity { return store.Identity{1} }, true)
		})
	}
}

// fixedStore gives the same answer for each event, and records none.
type fixedStore struct{ known bool }

func (s fixedStore) Lookup(_ context.Context, _ store.Identity) (store.Record, bool, error) {
	return store.Record{}, s.known, nil
}

func (fixedStore) Record(_ context.Context, _ store.Identity, _ store.Record) error { return nil }

func (fixedStore) Forget(_ context.Context, _ store.Identity) error { return nil }

func (fixedStore) Close() error { return nil }

// claimConcurrently claims b.N events from this many callers at once. A caller
// that waited for a delivery gets its outcome, and so claims nothing.
func claimConcurrently(b *testing.B, callers int, event func() store.Identity, known bool) {
	l := newTestLedger(fixedStore{known})
	var next, claimed atomic.Int64
	var wg sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	for range callers {
		wg.Go(func() {
			for next.Add(1) <= int64(b.N) {
				c, before, err := l.Claim(context.Background(), event(), time.Minute)
				if err != nil {
					b.Error(err)
					return
				}
				if before != nil {
					continue
				}
				claimed.Add(1)
				runtime.Gosched() // meanwhile other callers come
				if err := c.Delivered(store.Record{Status: 200}); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(claimed.Load())/float64(b.N), "claims/op")
}

// quickID returns a random identity, and costs next to nothing.
func quickID() (id store.Identity) {
	binary.BigEndian.PutUint64(id[:], rand.Uint64())
	binary.BigEndian.PutUint64(id[8:], rand.Uint64())
	return id
}
