package instantapi

import (
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// go test -run '^$' -bench . -benchtime 2s
//
// Compare figures of one run only: machines are noisy.

// BenchmarkRecord compares records that are written together with one synced
// Badger transaction a record.
func BenchmarkRecord(b *testing.B) {
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
				return db.Update(func(txn *badger.Txn) error { return txn.Set(id[:], encodeRecord(rec)) })
			})
		})
	}
}

// concurrentRecords records b.N events from so many callers at once.
func concurrentRecords(b *testing.B, callers int, record func(Identity, Record) error) {
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	for range callers {
		wg.Go(func() {
			for next.Add(1) <= int64(b.N) {
				if err := record(randomID(), Record{DeliveredAt: time.Now(), Status: 200}); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
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
		empty := anonymousMemory(b)
		var most atomic.Int64
		stop := make(chan struct{})
		go func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(50 * time.Millisecond):
					most.Store(max(most.Load(), anonymousMemory(b)-empty))
				}
			}
		}()
		ids := fillStore(b, s, n, time.Now().Add(24*time.Hour))
		close(stop)
		if err := s.Close(); err != nil { // so that all of it is in tables
			b.Fatal(err)
		}
		start := time.Now()
		s = testStore(b, dir, false)
		opened := time.Since(start)
		time.Sleep(2 * time.Second) // for the compactions
		known := ids[:min(len(ids), 1_000_000)]
		runtime.GC()
		settled := anonymousMemory(b) - empty - int64(len(ids)*len(Identity{}))
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
				if _, found, err := s.Lookup(known[rand.IntN(len(known))]); !found || err != nil {
					b.Fatal(found, err)
				}
			}
			b.ReportMetric(float64(size)/float64(n), "disk-B/event")
			b.ReportMetric(float64(settled)/(1<<20), "settled-MiB")
			b.ReportMetric(float64(most.Load())/(1<<20), "filling-MiB")
			b.ReportMetric(float64(opened.Milliseconds()), "open-ms")
		})
		s.Close()
	}
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

func BenchmarkVerify(b *testing.B) {
	for _, size := range []int{1 << 10, 64 << 10, 1 << 20} {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			v, err := NewVerifier("secret")
			if err != nil {
				b.Fatal(err)
			}
			body := make([]byte, size)
			sig, err := ParseSignature([]string{Sign("secret", body)})
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := v.Verify(body, sig); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
