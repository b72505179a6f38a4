package instantapi

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
		time.Sleep(2 * time.Second) // for the compactions
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
