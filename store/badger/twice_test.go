package badger

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
	"github.com/instantapi/caddy-instantapi-verify/store"
)

// These helpers open a whole store with a fault, and again without it, in the
// same process.

func init() { children["open twice"] = openTwice }

// endOfAnswer ends each of a child's answers.
const endOfAnswer = 0

// openTwice opens a store, waits until it is told to go on, opens the store again and
// looks for all its events.
func openTwice(dir string) {
	next := bufio.NewReader(os.Stdin)
	for range 2 {
		answer := "opened"
		if err := openAndLook(dir); err != nil {
			answer = err.Error()
		}
		fmt.Printf("%s%c", answer, endOfAnswer)
		_, _ = next.ReadString('\n')
	}
}

func openAndLook(dir string) error {
	on := true
	s, err := (&Module{Path: dir, Sync: &on, MinFreeSpace: lowestMinFreeSpace}).Open(ctx)
	if err != nil {
		return err
	}
	ids, err := os.ReadFile(dir + ".ids")
	if err != nil {
		return err
	}
	for ; len(ids) > 0; ids = ids[16:] {
		if _, found, err := s.Lookup(ctx, store.Identity(ids[:16])); err != nil || !found {
			return fmt.Errorf("looking up an event: found %t, %v", found, err)
		}
	}
	return s.Close()
}

// conversation is with a child that gives answers, and waits for a line before each but
// the first.
type conversation struct {
	t       *testing.T
	child   *exec.Cmd
	in      io.WriteCloser
	answers *bufio.Reader
	err     error
	stderr  strings.Builder
}

func converse(t *testing.T, child *exec.Cmd) *conversation {
	t.Helper()
	c := &conversation{t: t, child: child}
	child.Stderr = &c.stderr
	var err error
	if c.in, err = child.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	c.answers = bufio.NewReader(out)
	return c
}

// answer returns the next answer, "" if there is none.
func (c *conversation) answer() string {
	limit := time.AfterFunc(time.Minute, func() { _ = c.child.Process.Kill() })
	defer limit.Stop()
	answer, err := c.answers.ReadString(endOfAnswer)
	c.err = errors.Join(c.err, err)
	return strings.TrimSuffix(answer, string(rune(endOfAnswer)))
}

func (c *conversation) next() string {
	if c.err != nil {
		return ""
	}
	fmt.Fprintln(c.in)
	return c.answer()
}

// end checks that the child ends by itself.
func (c *conversation) end() {
	c.t.Helper()
	c.in.Close()
	if err := errors.Join(c.child.Wait(), c.err); err != nil {
		c.t.Errorf("the process ended: %v\n%.2000s", err, &c.stderr)
	}
}

// askTwice returns the two answers of a child; heal ends the fault in between.
func askTwice(t *testing.T, child *exec.Cmd, heal func()) (first, second string) {
	t.Helper()
	c := converse(t, child)
	first = c.answer()
	heal()
	second = c.next()
	c.end()
	return first, second
}

// wantNotDamaged checks that an error says what failed, and does not advise
// giving up the store's content.
func wantNotDamaged(t *testing.T, answer string, wants ...string) {
	t.Helper()
	caddytest.WantError(t, errors.New(answer), wants...)
	for _, wrong := range []string{"damaged", "move it away", "another process", "panicked"} {
		if strings.Contains(answer, wrong) {
			t.Errorf("got %s", answer)
		}
	}
}

// wholeStore is a directory with every kind of file, as a kill leaves them, and
// the events in it.
type wholeStore struct {
	dir string
	ids []store.Identity
}

func crashedStore(t *testing.T) (whole wholeStore) {
	t.Helper()
	live := t.TempDir()
	for range 2 {
		s := testStore(t, live, true)
		whole.ids = append(whole.ids, fillStore(t, s, 200, time.Time{})...)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	s := testStore(t, live, true)
	whole.ids = append(whole.ids, fillStore(t, s, 100, time.Time{})...)
	whole.dir = t.TempDir()
	if err := os.CopyFS(whole.dir, os.DirFS(live)); err != nil {
		t.Fatal(err)
	}
	return whole
}

// copy copies the store, and writes its events beside it for a child.
func (w wholeStore) copy(t *testing.T, dir string) {
	t.Helper()
	if err := os.CopyFS(dir, os.DirFS(w.dir)); err != nil {
		t.Fatal(err)
	}
	w.writeIDs(t, dir)
}

// writeIDs writes the events of a store beside it.
func (w wholeStore) writeIDs(t *testing.T, dir string) {
	t.Helper()
	if err := os.WriteFile(dir+".ids", idBytes(w.ids), 0o644); err != nil {
		t.Fatal(err)
	}
}

func idBytes(ids []store.Identity) (all []byte) {
	for _, id := range ids {
		all = append(all, id[:]...)
	}
	return all
}

// commitMany records events by the thousand, which takes the writer's place.
func commitMany(s *database, thousands int) (ids []store.Identity, err error) {
	batch := make([]entry, 1000)
	for range thousands {
		for i := range batch {
			batch[i] = entry{randomID(), store.Record{Status: 200}}
			ids = append(ids, batch[i].id)
		}
		if err := s.commit(batch); err != nil {
			return nil, err
		}
	}
	return ids, nil
}
