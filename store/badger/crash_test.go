package badger

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/store"
)

// A store that was killed opens again, whatever it was doing, with all events that it
// acknowledged: the files of a crash are not mistaken for damaged ones.

func init() {
	children["all kinds"] = recordAllKinds
}

// recordAllKinds does everything with a store that makes Badger write, move and
// remove files, and writes the identities of events that must be remembered.
func recordAllKinds(dir string) {
	s, err := openBadger(ctx, dir, true, lowestMinFreeSpace, freeSpace)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	go func() {
		for {
			time.Sleep(time.Duration(rand.IntN(500)) * time.Millisecond)
			if err := s.shrink(); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}
	}()
	for range 200 {
		go func() {
			for {
				id := randomID()
				if s.Record(ctx, id, store.Record{Status: 200}) == nil {
					os.Stdout.Write(id[:]) // at once: less than a pipe's buffer
				}
				for range 20 {
					brief := randomID()
					_ = s.Record(ctx, brief, store.Record{Status: 200, ExpiresAt: time.Now().Add(time.Second)})
					if rand.IntN(10) == 0 {
						_ = s.Forget(ctx, brief)
					}
				}
			}
		}()
	}
	time.Sleep(time.Minute)
}

func TestKilledStoresOpenAgain(t *testing.T) {
	rounds := 3
	if os.Getenv("INSTANTAPI_VERIFY_TEST_LONG") == "1" {
		rounds = 300
	}
	dir := t.TempDir()
	var ids []store.Identity
	opened := 0
	for round := range rounds {
		last := round == rounds-1
		life := time.Duration(rand.IntN(3000)) * time.Millisecond
		if last {
			life = 3 * time.Second // so that there are events in any case
		}
		ids = append(ids, killAfter(t, dir, life)...)
		if round%4 == 1 && !last {
			continue // the next one meets the files of several crashes
		}
		s, err := openBadger(ctx, dir, true, lowestMinFreeSpace, freeSpace)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		opened++
		// A crash puts the newest at risk. All are looked up at the end.
		if last {
			wantFound(t, s, ids)
		} else {
			wantFound(t, s, ids[max(0, len(ids)-20_000):])
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if len(ids) < rounds {
		t.Errorf("%d events are too few to prove anything", len(ids))
	}
	t.Logf("killed %d times, opened %d times here besides; %d events were acknowledged", rounds, opened, len(ids))
}

// killAfter kills a process that records into a store after a while, whatever it is
// doing, and returns the events that it acknowledged.
func killAfter(t *testing.T, dir string, life time.Duration) (ids []store.Identity) {
	t.Helper()
	told, failure := new(bytes.Buffer), new(bytes.Buffer)
	child := childCommand("all kinds", dir)
	child.Stdout, child.Stderr = told, failure
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(life)
	_ = child.Process.Kill()
	if err := child.Wait(); err == nil || err.Error() != "signal: killed" {
		t.Fatalf("it ended with %v: %.2000s", err, failure)
	}
	for b := told.Bytes(); len(b) >= 16; b = b[16:] {
		ids = append(ids, store.Identity(b[:16]))
	}
	return ids
}
