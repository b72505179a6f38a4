package badger

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
	"github.com/instantapi/caddy-instantapi-verify/store"
)

// These tests are about the Badger store alone.

// ctx is for calls that are not cancelled.
var ctx = context.Background()

// testStore opens a store that is closed at the end of the test.
func testStore(t testing.TB, path string, sync bool) *database {
	t.Helper()
	s, err := openBadger(ctx, path, sync, lowestMinFreeSpace, freeSpace)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !s.db.IsClosed() {
			s.Close()
		}
	})
	return s
}

func randomID() (id store.Identity) {
	rand.Read(id[:])
	return id
}

// fillStore records n events and returns their identities.
func fillStore(t testing.TB, s *database, n int, expires time.Time) []store.Identity {
	t.Helper()
	const writers = 128
	ids := make([]store.Identity, n)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := w; i < n; i += writers {
				ids[i] = randomID()
				if err := s.Record(ctx, ids[i], store.Record{DeliveredAt: time.Now(), Status: 200, ExpiresAt: expires}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return ids
}

// wantFound checks that all are remembered.
func wantFound(t testing.TB, s store.Store, ids []store.Identity) {
	t.Helper()
	missing := 0
	for _, id := range ids {
		if _, found, err := s.Lookup(ctx, id); err != nil {
			t.Fatal(err)
		} else if !found {
			missing++
		}
	}
	if missing > 0 {
		t.Errorf("%d of %d events are forgotten", missing, len(ids))
	}
}

// diskUsage returns the size of the files in a directory as far as they are
// written, in bytes.
func diskUsage(t testing.TB, dir string) (size int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // Badger has just deleted it
		}
		info, err := os.Stat(path)
		if err == nil && info.Mode().IsRegular() {
			size += allocated(info)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return size
}

func TestRecordIsFoundAsItWasWritten(t *testing.T) {
	dir := t.TempDir()
	s := testStore(t, dir, true)
	at := time.Unix(1_700_000_000, 0)
	want := map[store.Identity]store.Record{
		randomID(): {DeliveredAt: at, Status: 200, BodyHash: 1<<64 - 1, ExpiresAt: time.Now().Add(time.Hour).Truncate(time.Second)},
		randomID(): {DeliveredAt: at, Status: 299},
		{}:         {DeliveredAt: time.Unix(1<<39, 0), Status: 204, BodyHash: 1},
	}
	for id, rec := range want {
		if _, found, err := s.Lookup(ctx, id); found || err != nil {
			t.Errorf("unknown event: got %v %v", found, err)
		}
		if err := s.Record(ctx, id, rec); err != nil {
			t.Error(err)
		}
	}
	check := func() {
		t.Helper()
		for id, rec := range want {
			got, found, err := s.Lookup(ctx, id)
			if err != nil || !found || !got.DeliveredAt.Equal(rec.DeliveredAt) || got.Status != rec.Status ||
				got.BodyHash != rec.BodyHash || !got.ExpiresAt.Equal(rec.ExpiresAt) {
				t.Errorf("got %v %v %v, want %v", got, found, err, rec)
			}
		}
	}
	check()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = testStore(t, dir, true)
	check()
}

// After a burst has expired the directory shrinks by itself, and forgets nothing
// else.
func TestSpaceOfABurstIsGivenBack(t *testing.T) {
	inBubble(t, func(t *testing.T, s *database) {
		kept := fillStore(t, s, 20_000, time.Time{})
		fillStore(t, s, 200_000, time.Now().Add(shrinkInterval/4))
		time.Sleep(shrinkInterval / 2)
		before := s.tableSize()
		if err := s.db.Flatten(2); err != nil {
			t.Fatal(err)
		}
		alone := s.tableSize()
		time.Sleep(shrinkInterval)
		after := s.tableSize()
		t.Logf("tables: %d bytes, after Badger's Flatten alone %d, after the store's own look %d", before, alone, after)
		if after > before/4 {
			t.Errorf("%d bytes of %d are left", after, before)
		}
		wantFound(t, s, kept)
	})
}

// The directory stays small over several retention windows, with the help of
// the store's own checks alone. With steady traffic Badger's compactions drop
// enough; when traffic ebbs, they don't.
func TestDirectoryStaysWithinThreeTimesItsLiveData(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute with the race detector")
	}
	scale := 1
	if os.Getenv("INSTANTAPI_VERIFY_TEST_LONG") != "" {
		scale = 10
	}
	const (
		window = 4 * shrinkInterval
		parts  = 20 // of a window's events; every fifth comes while the store looks

		bytesPerEvent = 55 // measured with ten million, see BenchmarkMillions

		// What an empty store may hold: its log, and one being turned into a table.
		empty = 2*memTableSize + 1<<20
	)
	for name, windows := range map[string][]int{
		"steady": slices.Repeat([]int{60_000}, 10),
		"ebbing": {250_000, 5000, 250_000, 5000},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, s *database) {
				for i, events := range windows {
					events *= scale
					for range parts {
						fillStore(t, s, events/parts, time.Now().Add(window))
						time.Sleep(window / parts)
					}
					live, used := int64(events*bytesPerEvent), diskUsage(t, s.path)
					t.Logf("window %d: %.1f MB live, %.1f MB on disk", i+1, float64(live)/1e6, float64(used)/1e6)
					if used > 3*live+empty {
						t.Errorf("window %d: %d bytes on disk, %d are live", i+1, used, live)
					}
				}
			})
		})
	}
}

// inBubble opens a store in a bubble of synctest, where an hour passes as soon
// as all goroutines wait, so that the store's regular work gets done.
func inBubble(t *testing.T, use func(t *testing.T, s *database)) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := testStore(t, dir, false)
		use(t, s)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// crashedLog makes a store with batches of events in its log, leaves it as a
// crash does, and returns a copy of the directory and its log file.
func crashedLog(t *testing.T, batches int) (dir, log string, ids []store.Identity) {
	t.Helper()
	live := t.TempDir()
	s := testStore(t, live, true)
	for range batches { // one after the other: a batch each
		ids = append(ids, fillStore(t, s, 1, time.Time{})...)
	}
	dir = t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(live)); err != nil {
		t.Fatal(err)
	}
	logs, _ := filepath.Glob(filepath.Join(dir, "*.mem"))
	if len(logs) != 1 {
		t.Fatalf("there are %d logs", len(logs))
	}
	return dir, logs[0], ids
}

// edit changes a file.
func edit(t *testing.T, file string, change func([]byte) []byte) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, change(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestTornTailIsRepairedSilently(t *testing.T) {
	end := func(log []byte) int { return len(bytes.TrimRight(log, "\x00")) }
	for name, tear := range map[string]func([]byte) []byte{
		"nothing":          func(log []byte) []byte { return log },
		"zeros":            func(log []byte) []byte { clear(log[end(log)-5:]); return log },
		"zeros in between": func(log []byte) []byte { clear(log[end(log)-60 : end(log)-50]); return log },
		"garbage":          func(log []byte) []byte { rand.Read(log[end(log)-30 : end(log)-2]); return log },
		"garbage behind":   func(log []byte) []byte { rand.Read(log[end(log) : end(log)+500]); return log },
	} {
		t.Run(name, func(t *testing.T) {
			dir, log, ids := crashedLog(t, 20)
			edit(t, log, tear)
			if name != "nothing" && name != "garbage behind" {
				ids = ids[:len(ids)-1] // its batch was not whole
			}
			wantFound(t, testStore(t, dir, true), ids)
		})
	}
}

func TestDamagedLogIsRefused(t *testing.T) {
	for name, damage := range map[string]func(log []byte, at int) []byte{
		"a bit":   func(log []byte, at int) []byte { log[at] ^= 1; return log },
		"zeros":   func(log []byte, at int) []byte { clear(log[at : at+100]); return log },
		"garbage": func(log []byte, at int) []byte { rand.Read(log[at : at+300]); return log },
		"a hole":  func(log []byte, at int) []byte { return append(log[:at], log[at+64:]...) },
		"its end": func(log []byte, at int) []byte { return log[:len(bytes.TrimRight(log, "\x00"))-5] },
	} {
		t.Run(name, func(t *testing.T) {
			dir, log, _ := crashedLog(t, 50)
			edit(t, log, func(log []byte) []byte {
				return damage(log, len(bytes.TrimRight(log, "\x00"))/2)
			})
			before, err := os.ReadFile(log)
			if err != nil {
				t.Fatal(err)
			}
			_, err = openBadger(ctx, dir, true, lowestMinFreeSpace, freeSpace)
			caddytest.WantError(t, err, "it is damaged", "log", "at byte", "restore the directory")
			if after, _ := os.ReadFile(log); !bytes.Equal(before, after) {
				t.Error("the log was changed")
			}
		})
	}
}

// The code that reads logs has Badger's format built in; this test compares it
// with Badger's own.
func TestLogsAreReadAsBadgerWritesThem(t *testing.T) {
	_, log, ids := crashedLog(t, 100)
	content, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	read, err := readLog(log, nil)
	if want := uint64(coverVersion + len(ids)); err != nil || read.first != coverVersion+1 || read.last != want {
		t.Errorf("batches are %d to %d, want %d to %d", read.first, read.last, coverVersion+1, want)
	}
	if rest := bytes.TrimRight(content[read.end:], "\x00"); len(rest) > 0 || read.begun || read.batches != read.end || read.size != logSize {
		t.Errorf("%d bytes were not read: %+v", len(rest), read)
	}
	content = content[logHeaderSize:]
	if first, last := eventVersions(content); first != coverVersion+1 || last != read.last {
		t.Errorf("events are of the batches %d to %d, want %d to %d", first, last, coverVersion+1, read.last)
	}
	entry, ok := readLogEntry(content)
	if !ok || !entry.event || entry.version != coverVersion+1 {
		t.Errorf("first entry is read as %+v", entry)
	}
	if at := bytes.Index(content, ids[0][:]); at < 0 || binary.BigEndian.Uint64(content[at+16:]) != ^entry.version {
		t.Error("key is not followed by its version")
	}
}

// Badger must find a log with forgotten events in it as it was before a crash.
func TestForgettingOutlivesACrash(t *testing.T) {
	dir := t.TempDir()
	s := testStore(t, dir, true)
	ids := fillStore(t, s, 50, time.Time{})
	for _, id := range ids[:25] {
		if err := s.Forget(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	crashed := t.TempDir()
	if err := os.CopyFS(crashed, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	s = testStore(t, crashed, true)
	wantFound(t, s, ids[25:])
	for _, id := range ids[:25] {
		if _, found, err := s.Lookup(ctx, id); found || err != nil {
			t.Errorf("forgotten event: got %t %v", found, err)
		}
	}
}
