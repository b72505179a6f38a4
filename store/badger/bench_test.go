package badger

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	badgerdb "github.com/dgraph-io/badger/v4"
	"github.com/instantapi/caddy-instantapi-verify/store"
)

// go test -run '^$' -bench . -benchtime 2s
//
// Compare figures of one run only: machines are noisy.

// BenchmarkRecord compares records that are written together with one synced
// Badger transaction per record.
func BenchmarkRecord(b *testing.B) {
	b.Run("limit/sync=true/batch=128", benchmarkBatches)
	for _, callers := range []int{1, 32, 128, 512} {
		for _, sync := range []bool{true, false} {
			b.Run(fmt.Sprintf("together/sync=%t/callers=%d", sync, callers), func(b *testing.B) {
				s := testStore(b, b.TempDir(), sync)
				concurrentRecords(b, callers, func(id store.Identity, rec store.Record) error { return s.Record(ctx, id, rec) })
			})
		}
		b.Run(fmt.Sprintf("one-by-one/sync=true/callers=%d", callers), func(b *testing.B) {
			db, err := badgerdb.Open(badgerOptions(b.TempDir(), true, new(logger)))
			if err != nil {
				b.Fatal(err)
			}
			defer db.Close()
			concurrentRecords(b, callers, func(id store.Identity, rec store.Record) error {
				return db.Update(func(txn *badgerdb.Txn) error { return txn.Set(id[:], appendRecord(nil, rec)) })
			})
		})
	}
}

// benchmarkBatches writes one batch of 128 records after the other: the speed
// at which 128 callers could be served if waking them took no time.
func benchmarkBatches(b *testing.B) {
	s := testStore(b, b.TempDir(), true)
	batch := make([]entry, 128)
	written := 0
	for b.Loop() {
		for i := range batch {
			batch[i] = entry{quickID(), store.Record{DeliveredAt: time.Now(), Status: 200}}
		}
		if err := s.commit(batch); err != nil {
			b.Fatal(err)
		}
		written += len(batch)
	}
	b.ReportMetric(float64(written)/b.Elapsed().Seconds(), "records/s")
}

// concurrentRecords records b.N events from this many callers at once.
func concurrentRecords(b *testing.B, callers int, record func(store.Identity, store.Record) error) {
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	for range callers {
		wg.Go(func() {
			for next.Add(1) <= int64(b.N) {
				if err := record(quickID(), store.Record{DeliveredAt: time.Now(), Status: 200}); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
}

// quickID is randomID without the operating system, which would take a good
// part of the measured time.
func quickID() (id store.Identity) {
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
				if _, found, err := s.Lookup(ctx, randomID()); found || err != nil {
					b.Fatal(found, err)
				}
			}
		})
		b.Run(fmt.Sprintf("events=%d/known", n), func(b *testing.B) {
			for b.Loop() {
				if _, found, err := s.Lookup(ctx, numberedID(rand.IntN(n))); !found || err != nil {
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
func numberedID(i int) (id store.Identity) {
	digest := sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(i)))
	return store.Identity(digest[:len(id)])
}

// fillNumbered records the first n of the sequence.
func fillNumbered(b *testing.B, s *database, n int) {
	b.Helper()
	const writers = 128
	expires := time.Now().Add(24 * time.Hour)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := w; i < n; i += writers {
				if err := s.Record(ctx, numberedID(i), store.Record{DeliveredAt: time.Now(), Status: 200, ExpiresAt: expires}); err != nil {
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
