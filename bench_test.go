package instantapi

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/dgraph-io/badger/v4"
	"github.com/instantapi/caddy-instantapi-verify/signature"
	"go.uber.org/zap"
)

// go test -run '^$' -bench . -benchtime 2s
//
// Compare figures of one run only: machines are noisy.

// BenchmarkRecord compares records that are written together with one synced
// Badger transaction a record.
func BenchmarkRecord(b *testing.B) {
	b.Run("limit/sync=true/batch=128", benchmarkBatches)
	for _, callers := range []int{1, 32, 128, 512} {
		for _, sync := range []bool{true, false} {
			b.Run(fmt.Sprintf("together/sync=%t/callers=%d", sync, callers), func(b *testing.B) {
				s := testStore(b, b.TempDir(), sync)
				concurrentRecords(b, callers, s.Record)
			})
		}
		b.Run(fmt.Sprintf("one-by-one/sync=true/callers=%d", callers), func(b *testing.B) {
			db, err := badger.Open(badgerOptions(b.TempDir(), true, new(badgerLogger)))
			if err != nil {
				b.Fatal(err)
			}
			defer db.Close()
			concurrentRecords(b, callers, func(id Identity, rec Record) error {
				return db.Update(func(txn *badger.Txn) error { return txn.Set(id[:], appendRecord(nil, rec)) })
			})
		})
	}
}

// benchmarkBatches writes one batch of 128 records after the other: as fast as
// that goes, 128 callers could be served if it took no time to wake them.
func benchmarkBatches(b *testing.B) {
	s := testStore(b, b.TempDir(), true)
	batch := make([]badgerEntry, 128)
	written := 0
	for b.Loop() {
		for i := range batch {
			batch[i] = badgerEntry{quickID(), Record{DeliveredAt: time.Now(), Status: 200}}
		}
		if err := s.commit(batch); err != nil {
			b.Fatal(err)
		}
		written += len(batch)
	}
	b.ReportMetric(float64(written)/b.Elapsed().Seconds(), "records/s")
}

// concurrentRecords records b.N events from so many callers at once.
func concurrentRecords(b *testing.B, callers int, record func(Identity, Record) error) {
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	for range callers {
		wg.Go(func() {
			for next.Add(1) <= int64(b.N) {
				if err := record(quickID(), Record{DeliveredAt: time.Now(), Status: 200}); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
}

// quickID is randomID without the operating system, which would be a good part of
// what is measured.
func quickID() (id Identity) {
	binary.BigEndian.PutUint64(id[:], rand.Uint64())
	binary.BigEndian.PutUint64(id[8:], rand.Uint64())
	return id
}

// BenchmarkMillions fills a store with INSTANTAPI_VERIFY_BENCH_EVENTS events
// (default: a million), lets it settle, and measures what it costs then, beside
// a store of ten thousand.
func BenchmarkMillions(b *testing.B) {
	events := 1_000_000
	if n, err := strconv.Atoi(os.Getenv("INSTANTAPI_VERIFY_BENCH_EVENTS")); err == nil {
		events = n
	}
	for _, n := range []int{10_000, events} {
		dir := b.TempDir()
		s := testStore(b, dir, false)
		debug.FreeOSMemory()
		empty := anonymousMemory(b)
		var most atomic.Int64
		stop := make(chan struct{})
		go func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(20 * time.Millisecond):
					most.Store(max(most.Load(), anonymousMemory(b)-empty))
				}
			}
		}()
		start := time.Now()
		fillNumbered(b, s, n)
		filled := time.Since(start)
		close(stop)
		// For the compactions, and for Badger to let go of the memory in which it
		// built tables: one piece every two seconds.
		time.Sleep(30 * time.Second)
		debug.FreeOSMemory()
		settled := anonymousMemory(b) - empty
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
		start = time.Now()
		s = testStore(b, dir, false)
		opened := time.Since(start)
		size := diskUsage(b, dir)
		b.Run(fmt.Sprintf("events=%d/unknown", n), func(b *testing.B) {
			for b.Loop() {
				if _, found, err := s.Lookup(randomID()); found || err != nil {
					b.Fatal(found, err)
				}
			}
		})
		b.Run(fmt.Sprintf("events=%d/known", n), func(b *testing.B) {
			for b.Loop() {
				if _, found, err := s.Lookup(numberedID(rand.IntN(n))); !found || err != nil {
					b.Fatal(found, err)
				}
			}
			b.ReportMetric(float64(size)/float64(n), "disk-B/event")
			b.ReportMetric(float64(settled)/(1<<20), "settled-MiB")
			b.ReportMetric(float64(most.Load())/(1<<20), "filling-MiB")
			b.ReportMetric(float64(n)/filled.Seconds(), "filled/s")
			b.ReportMetric(float64(opened.Milliseconds()), "open-ms")
		})
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("events=%d/open-cold", n), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("1"), 0); err != nil {
					b.Skip("emptying the page cache takes Linux and root")
				}
				b.StartTimer()
				s := testStore(b, dir, false)
				b.StopTimer()
				s.Close()
				b.StartTimer()
			}
		})
	}
}

// numberedID is the i-th identity of a sequence that looks random, so that
// millions of them need not be kept.
func numberedID(i int) (id Identity) {
	digest := sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(i)))
	return Identity(digest[:len(id)])
}

// fillNumbered records the first n of the sequence.
func fillNumbered(b *testing.B, s *badgerStore, n int) {
	b.Helper()
	const writers = 128
	expires := time.Now().Add(24 * time.Hour)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := w; i < n; i += writers {
				if err := s.Record(numberedID(i), Record{DeliveredAt: time.Now(), Status: 200, ExpiresAt: expires}); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// anonymousMemory returns the process's memory that is not a mapped file, in
// bytes, where the system tells it (Linux).
func anonymousMemory(b *testing.B) int64 {
	b.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	var kib int64
	for line := range strings.Lines(string(status)) {
		if _, err := fmt.Sscanf(line, "RssAnon: %d kB", &kib); err == nil {
			return kib << 10
		}
	}
	return 0
}

// BenchmarkVerify compares the way from header and body to verdict with a bare
// SHA-256 of the same bytes.
func BenchmarkVerify(b *testing.B) {
	for _, size := range benchmarkSizes {
		body := make([]byte, size)
		b.Run(fmt.Sprintf("size=%d/verify", size), func(b *testing.B) {
			v, err := signature.NewVerifier("secret")
			if err != nil {
				b.Fatal(err)
			}
			header := []string{signature.Sign("secret", body)}
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				sig, err := signature.Parse(header)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := v.Verify(body, sig); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("size=%d/sha256", size), func(b *testing.B) {
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				sha256.Sum256(body)
			}
		})
	}
}

var benchmarkSizes = []int{1 << 10, 64 << 10, 1 << 20}

// BenchmarkScan compares the scan of an event with encoding/json into a struct of
// the same fields, for an answer that is a text and one that is a table.
func BenchmarkScan(b *testing.B) {
	for _, size := range benchmarkSizes {
		for _, result := range []struct{ kind, item string }{
			{"text", `The second item (\"Shipping\") has no tax, M\u00fcller says.\n`},
			{"table", `","rows":[{"id":17,"name":"Shipping","tax":null,"price":12.50}],"next":"`},
		} {
			body := []byte(`{"event_type":"task.completed","status":"completed","result":{"text":"` +
				strings.Repeat(result.item, size/len(result.item)) + `"},"task_id":"task_1"}`)
			b.Run(fmt.Sprintf("size=%d/%s/scan", size, result.kind), func(b *testing.B) {
				b.SetBytes(int64(len(body)))
				b.ReportAllocs()
				for b.Loop() {
					if _, err := scanEvent(body, eventFields); err != nil {
						b.Fatal(err)
					}
				}
			})
			b.Run(fmt.Sprintf("size=%d/%s/encoding-json", size, result.kind), func(b *testing.B) {
				b.SetBytes(int64(len(body)))
				b.ReportAllocs()
				for b.Loop() {
					var event struct {
						EventType string `json:"event_type"`
						TaskID    string `json:"task_id"`
						Status    string `json:"status"`
					}
					if err := json.Unmarshal(body, &event); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkClaim measures the ledger alone, with a store that costs next to
// nothing: the way of a new event from its claim to its end, on events of their
// own and on one that all callers want, and the way of a known one.
func BenchmarkClaim(b *testing.B) {
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("own-events/callers=%d", callers), func(b *testing.B) {
			claimConcurrently(b, callers, randomID, false)
		})
		b.Run(fmt.Sprintf("one-event/callers=%d", callers), func(b *testing.B) {
			claimConcurrently(b, callers, func() Identity { return Identity{1} }, false)
		})
		b.Run(fmt.Sprintf("known/callers=%d", callers), func(b *testing.B) {
			claimConcurrently(b, callers, func() Identity { return Identity{1} }, true)
		})
	}
}

// fixedStore gives the same answer for each event, and records none.
type fixedStore struct{ known bool }

func (s fixedStore) Lookup(Identity) (Record, bool, error) { return Record{}, s.known, nil }
func (fixedStore) Record(Identity, Record) error           { return nil }
func (fixedStore) Forget(Identity) error                   { return nil }
func (fixedStore) Close() error                            { return nil }

// claimConcurrently claims b.N events from so many callers at once. Who waited
// for a delivery has its outcome, and so claims nothing.
func claimConcurrently(b *testing.B, callers int, event func() Identity, known bool) {
	l := newTestLedger(fixedStore{known})
	var next, claimed atomic.Int64
	var wg sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	for range callers {
		wg.Go(func() {
			for next.Add(1) <= int64(b.N) {
				c, before, err := l.claim(context.Background(), event(), time.Minute)
				if err != nil {
					b.Error(err)
					return
				}
				if before != nil {
					continue
				}
				claimed.Add(1)
				runtime.Gosched() // while it is delivered others come
				if err := c.delivered(Record{Status: 200}); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(claimed.Load())/float64(b.N), "claims/op")
}

// BenchmarkGuard measures what the guard adds to a request, by itself: without
// Caddy's server, without a network, with a backend that does nothing. What
// "without" costs, the making of the request, is part of all.
func BenchmarkGuard(b *testing.B) {
	for _, test := range []struct {
		name       string
		verifyOnly bool
		send       func(i int) int // which event the i-th request is of
	}{
		{"without", true, func(i int) int { return i }},
		{"verify-only", true, func(i int) int { return i }},
		{"new-events", false, func(i int) int { return i }},
		{"repeats", false, func(i int) int { return 0 }},
	} {
		b.Run(test.name, func(b *testing.B) {
			ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
			defer cancel()
			h := &Handler{Secrets: []string{testSecret}, VerifyOnly: true} // provisioned without Caddy's apps
			if err := h.Provision(ctx); err != nil {
				b.Fatal(err)
			}
			h.log = zap.NewNop()
			if h.VerifyOnly = test.verifyOnly; !h.VerifyOnly {
				off := false
				store := &BadgerStore{Path: b.TempDir(), Sync: &off, MinFreeSpace: lowestMinFreeSpace}
				h.app = &App{store: store, key: store.Key(), options: store.Options()}
				if err := h.app.Start(); err != nil {
					b.Fatal(err)
				}
				defer func() {
					if err := h.app.Cleanup(); err != nil {
						b.Error(err)
					}
					waitForClosedStores(b)
				}()
			}
			next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
				w.WriteHeader(http.StatusOK)
				return nil
			})
			serve := func(w http.ResponseWriter, r *http.Request) error { return h.ServeHTTP(w, r, next) }
			if test.name == "without" {
				serve = next
			}
			var count atomic.Int64
			b.ReportAllocs()
			b.SetParallelism(32)
			b.RunParallel(func(pb *testing.PB) {
				repl := caddy.NewReplacer()
				for pb.Next() {
					body := benchEvent(test.send(int(count.Add(1))))
					r := signed("http://localhost/", body)
					ctx := context.WithValue(r.Context(), caddy.ReplacerCtxKey, repl)
					ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, map[string]any{})
					if err := serve(discardWriter{http.Header{}}, r.WithContext(ctx)); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}

func benchEvent(i int) []byte {
	return fmt.Appendf(nil, `{"event_type":"task.completed","status":"completed","result":{"text":%q},"task_id":"task_%d"}`, strings.Repeat("x", 900), i)
}

// discardWriter is an http.ResponseWriter for nobody.
type discardWriter struct{ header http.Header }

func (w discardWriter) Header() http.Header       { return w.header }
func (discardWriter) Write(p []byte) (int, error) { return len(p), nil }
func (discardWriter) WriteHeader(int)             {}
