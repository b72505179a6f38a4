package badger

import (
	"bufio"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
)

func init() { children["close"] = fillAndClose }

// fillAndClose fills a memtable, closes the store when it is told to, and waits when it
// is told to until the store is closed.
func fillAndClose(dir string) {
	s, err := openBadger(ctx, dir, true, lowestMinFreeSpace, freeSpace)
	if err != nil {
		fmt.Print(err)
		return
	}
	ids, err := commitMany(s, 40) // of some 50 that a memtable has room for
	if err != nil {
		fmt.Print(err)
		return
	}
	if err := os.WriteFile(dir+".ids", idBytes(ids), 0o600); err != nil {
		fmt.Println(err)
	}
	next := bufio.NewReader(os.Stdin)
	fmt.Printf("recorded%c", endOfAnswer)
	_, _ = next.ReadString('\n')
	fmt.Printf("%v%c", s.Close(), endOfAnswer)
	_, _ = next.ReadString('\n')
	fmt.Printf("%v%c", awaitClosed(ctx, dir), endOfAnswer)
	_, _ = next.ReadString('\n')
}

// fillUp leaves so many bytes of a file system free, until the returned function is
// called.
func fillUp(t *testing.T, disk string, leave int64) (removeBallast func()) {
	t.Helper()
	ballast := filepath.Join(disk, "ballast")
	file, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for chunk := make([]byte, 4096); caddytest.FreeSpace(t, disk) > leave; {
		n := min(caddytest.FreeSpace(t, disk)-leave, 1<<20)
		if int64(len(chunk)) < n {
			chunk = make([]byte, n)
		}
		if _, err := file.Write(chunk[:n]); err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		if err := os.Remove(ballast); err != nil {
			t.Error(err)
		}
	}
}

// At whatever level of free space a store is closed, its process goes on, and nothing
// is forgotten: it is closed, or left as a kill leaves it until there is room.
func TestClosingAtEachLevelOfFreeSpace(t *testing.T) {
	levels := []int64{40 << 10, closeSpace}
	if caddytest.Long() {
		levels = append(levels, 0, 4096, 1<<20, 2<<20, 3<<20, 4<<20, 6<<20, 8<<20, 12<<20, closeSpace-1<<20, closeSpace-4096,
			closeSpace+4096, closeSpace+1<<20, lowestMinFreeSpace-4096, lowestMinFreeSpace)
	}
	for _, level := range levels {
		for _, killed := range []bool{false, true} {
			if killed && level >= closeSpace {
				continue // it is closed
			}
			t.Run(fmt.Sprintf("%s free, killed %t", humanize.IBytes(uint64(level)), killed), func(t *testing.T) {
				closeAt(t, level, killed)
			})
		}
	}
}

func closeAt(t *testing.T, level int64, killed bool) {
	disk := caddytest.Mount(t, "-t", "tmpfs", "-o", "size=96m", "tmpfs")
	dir := filepath.Join(disk, "store")
	child := converse(t, childCommand("close", dir))
	if got := child.answer(); got != "recorded" {
		t.Fatalf("recording: %.500s", got)
	}
	removeBallast := fillUp(t, disk, level)
	got := child.next()
	if fits := level >= closeSpace; fits != (got == "<nil>") || !fits && !strings.Contains(got, errNoSpace.Error()) {
		t.Errorf("closing: got %q", got)
	}
	if killed {
		_ = child.child.Process.Kill()
		_ = child.child.Wait()
		removeBallast()
	} else {
		removeBallast()
		if got := child.next(); got != "<nil>" {
			t.Errorf("closing with room: got %q", got)
		}
		child.end()
	}
	if err := openAndLook(dir); err != nil {
		t.Errorf("opened again: %v", err)
	}
}

// Reading all files can take minutes, in which a disk can fill up.
func TestOpeningLooksForRoomAgainBeforeItWrites(t *testing.T) {
	whole := crashedStore(t)
	dir := filepath.Join(t.TempDir(), "store")
	whole.copy(t, dir)
	looks := 0
	_, err := openBadger(ctx, dir, true, lowestMinFreeSpace, func(string) (uint64, error) {
		if looks++; looks == 1 {
			return math.MaxUint64, nil
		}
		return closeSpace, nil
	})
	caddytest.WantError(t, err, errNoSpace.Error(), "make room")
	time.Sleep(100 * time.Millisecond)
	if made, _ := filepath.Glob(filepath.Join(dir, "00002.mem")); len(made) > 0 {
		t.Errorf("Badger has made %v", made)
	}
	if err := openAndLook(dir); err != nil {
		t.Errorf("with room: %v", err)
	}
}
