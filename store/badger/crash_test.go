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
	rounds := 6
	if os.Getenv("INSTANTAPI_VERIFY_TEST_LONG") == "1" {
		rounds = 300
	}
	dir := t.TempDir()
	var ids []store.Identity
	for round := range rounds {
		told := new(bytes.Buffer)
		failure := new(bytes.Buffer)
		child := childCommand("all kinds", dir)
		child.Stdout, child.Stderr = told, failure
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(rand.IntN(4000)) * time.Millisecond)
		_ = child.Process.Kill()
		if err := child.Wait(); err == nil || err.Error() != "signal: killed" {
			t.Fatalf("round %d: %v: %.2000s", round, err, failure)
		}
		for b := told.Bytes(); len(b) >= 16; b = b[16:] {
			ids = append(ids, store.Identity(b[:16]))
		}
		if round%4 == 0 {
			continue // the next one meets the files of several crashes
		}
		s, err := openBadger(ctx, dir, true, lowestMinFreeSpace, freeSpace)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		wantFound(t, s, ids)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d events in %d rounds", len(ids), rounds)
}
