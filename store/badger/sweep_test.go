package badger

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	badgerdb "github.com/dgraph-io/badger/v4"
	"github.com/instantapi/caddy-instantapi-verify/store"
)

// Every single wrong byte in a file of the store, and every shortened file, is
// either found or makes the store forget nothing, and never ends the process.

// Environment variables of the child that tries them all.
const (
	sweptFile   = "INSTANTAPI_VERIFY_TEST_SWEPT_FILE"
	sweptStride = "INSTANTAPI_VERIFY_TEST_SWEPT_STRIDE"
)

func init() {
	children["cut while open"] = lookUpInACutTable
	children["flip"] = func(dir string) {
		sweep(dir, func(content []byte, at int) []byte {
			content[at] ^= []byte{0xff, 0x01, 0x80, 0x10}[at%4]
			return content
		})
	}
	children["shorten"] = func(dir string) {
		sweep(dir, func(content []byte, at int) []byte { return content[:at] })
	}
}

// sweep damages a file of a store at one byte after the other, and tries whether the
// store is refused, or opens with all events.
func sweep(dir string, damage func(content []byte, at int) []byte) {
	name := filepath.Join(dir, os.Getenv(sweptFile))
	good, err := os.ReadFile(name)
	if err != nil {
		panic(err)
	}
	stride, _ := strconv.Atoi(os.Getenv(sweptStride))
	tried, harmless := 0, 0
	written := len(bytes.TrimRight(good, "\x00")) // of a log there are only zeros behind
	for at := 0; at < min(len(good), written+50); at += stride {
		_ = os.WriteFile(dir+".at", []byte(strconv.Itoa(at)), 0o600) // for who reads of a crash
		if err := os.WriteFile(name, damage([]byte(string(good)), at), 0o600); err != nil {
			panic(err)
		}
		tried++
		_, err := examine(ctx, dir, true, nil)
		if err == nil {
			harmless++
			err = opensWithAll(dir)
		} else if !errors.Is(err, errDamaged) {
			err = fmt.Errorf("refused, but not as damaged: %w", err)
		} else {
			err = nil
		}
		if err != nil {
			fmt.Printf("byte %d: %v\n", at, err)
		}
	}
	fmt.Printf("tried %d, harmless %d", tried, harmless)
}

// opensWithAll opens a copy of a store and looks for all its events.
func opensWithAll(dir string) error {
	copied, err := os.MkdirTemp("", "swept")
	if err != nil {
		return err
	}
	defer os.RemoveAll(copied)
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		return err
	}
	s, err := openBadger(ctx, copied, true, lowestMinFreeSpace, freeSpace)
	if err != nil {
		if errors.Is(err, errDamaged) {
			return nil
		}
		return err
	}
	defer s.Close()
	ids, err := os.ReadFile(dir + ".ids")
	if err != nil {
		return err
	}
	forgotten := 0
	for ; len(ids) > 0; ids = ids[16:] {
		if _, found, err := s.Lookup(ctx, store.Identity(ids[:16])); err != nil || !found {
			forgotten++
		}
	}
	if forgotten > 0 {
		return fmt.Errorf("opened, and %d events are forgotten", forgotten)
	}
	return nil
}

func TestEveryDamagedByteIsFoundOrHarmless(t *testing.T) {
	closed := t.TempDir()
	var closedIDs []store.Identity
	for range 2 {
		s := testStore(t, closed, true)
		closedIDs = append(closedIDs, fillStore(t, s, 100, time.Time{})...)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	crashed, log, crashedIDs := crashedLog(t, 40)

	for _, test := range []struct {
		dir, file string
		ids       []store.Identity
		flips     int // one of so many bytes, in the short version
	}{
		{closed, filepath.Base(tables(t, closed)[1]), closedIDs, 17},
		{closed, badgerdb.ManifestFilename, closedIDs, 1},
		{closed, stateFile, closedIDs, 1},
		{closed, keyRegistry, closedIDs, 5},
		{closed, discardFile, closedIDs, 9},
		{closed, valueLogName(2), closedIDs, 9},
		{crashed, valueLogName(1), crashedIDs, 9},
		{crashed, filepath.Base(log), crashedIDs, 11},
		{crashed, badgerdb.ManifestFilename, crashedIDs, 1},
		{crashed, stateFile, crashedIDs, 1},
	} {
		for _, how := range []string{"flip", "shorten"} {
			t.Run(how+"/"+test.file, func(t *testing.T) {
				stride := test.flips
				if os.Getenv("INSTANTAPI_VERIFY_TEST_LONG") == "1" {
					stride = 1
				}
				sweepInChild(t, how, test.dir, test.file, test.ids, stride)
			})
		}
	}
}

func sweepInChild(t *testing.T, how, dir, file string, ids []store.Identity, stride int) {
	t.Helper()
	swept := filepath.Join(t.TempDir(), "store")
	if err := os.CopyFS(swept, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	var all []byte
	for _, id := range ids {
		all = append(all, id[:]...)
	}
	if err := os.WriteFile(swept+".ids", all, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := childCommand(how, swept)
	cmd.Env = append(cmd.Env, sweptFile+"="+file, sweptStride+"="+strconv.Itoa(stride))
	stderr := new(strings.Builder)
	cmd.Stderr = stderr
	output, err := cmd.Output()
	if err != nil {
		at, _ := os.ReadFile(swept + ".at")
		t.Fatalf("byte %s: the process ended: %v\n%.2000s", at, err, stderr)
	}
	if !strings.HasPrefix(string(output), "tried ") {
		t.Errorf("%.2000s", output)
		return
	}
	t.Logf("%s", output)
}

// lookUpInACutTable looks for events whose table is cut off while the store is open.
func lookUpInACutTable(dir string) {
	s, err := openBadger(ctx, dir, true, lowestMinFreeSpace, freeSpace)
	if err != nil {
		fmt.Print(err)
		return
	}
	files, _ := filepath.Glob(filepath.Join(dir, "*.sst"))
	for _, file := range files {
		if err := os.Truncate(file, 0); err != nil {
			fmt.Print(err)
			return
		}
	}
	ids, _ := os.ReadFile(dir + ".ids")
	if _, found, err := s.Lookup(ctx, store.Identity(ids[:16])); found || err == nil {
		fmt.Printf("got %t %v", found, err)
		return
	}
	fmt.Print("failed")
}

// A table that is cut off while the store is open makes lookups fail, and does not end
// the process. There is only one table, because Badger would merge two in a goroutine
// of its own, whose faults nobody can catch.
func TestTableCutWhileOpenIsAnError(t *testing.T) {
	dir := t.TempDir()
	s := testStore(t, dir, true)
	ids := fillStore(t, s, 5000, time.Time{})
	if err := s.Close(); err != nil { // which writes a table
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+".ids", ids[0][:], 0o600); err != nil {
		t.Fatal(err)
	}
	child := childCommand("cut while open", dir)
	stderr := new(strings.Builder)
	child.Stderr = stderr
	output, err := child.Output()
	if err != nil || string(output) != "failed" {
		t.Errorf("got %v %.500s\n%.2000s", err, output, stderr)
	}
}
