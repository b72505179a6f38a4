package badger

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
)

// The environment variables that make a child.
const (
	childRole = "INSTANTAPI_VERIFY_TEST_CHILD"
	childDir  = "INSTANTAPI_VERIFY_TEST_CHILD_DIR"
)

// children are what this test binary does instead of testing, in a process of
// its own that may die of it.
var children = map[string]func(dir string){
	"open": func(dir string) {
		s, err := openBadger(ctx, dir, true, lowestMinFreeSpace, freeSpace)
		if err != nil {
			fmt.Print(err)
			return
		}
		fmt.Print("opened")
		s.Close()
	},
}

// TestMain starts the children, because all init functions must have run
// before.
func TestMain(m *testing.M) {
	if child := children[os.Getenv(childRole)]; child != nil {
		child(os.Getenv(childDir))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func childCommand(role, dir string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childRole+"="+role, childDir+"="+dir)
	return cmd
}

// wantFromChild runs a child in this role, and checks that it ends by itself
// and prints just this text.
func wantFromChild(t *testing.T, role, dir, want string) {
	t.Helper()
	child := childCommand(role, dir)
	output, errput := new(bytes.Buffer), new(bytes.Buffer)
	child.Stdout, child.Stderr = output, errput
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(3*time.Minute, func() { _ = child.Process.Kill() })
	defer kill.Stop()
	if err := child.Wait(); err != nil || output.String() != want {
		t.Errorf("child ended with %v and wrote %.500s\n%.2000s", err, output, errput)
	}
}

// wantRefused checks that a directory is not opened, and is left as it is. It
// uses a child, because some damage makes Badger panic in a goroutine of its
// own.
func wantRefused(t *testing.T, dir string, wants ...string) {
	t.Helper()
	wantRefusedBy(t, childCommand("open", dir), dir, wants...)
}

func wantRefusedBy(t *testing.T, child *exec.Cmd, dir string, wants ...string) {
	t.Helper()
	before := contents(t, dir)
	output, err := child.Output()
	if err != nil {
		crash := err.Error()
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			crash += "\n" + string(exit.Stderr[:min(len(exit.Stderr), 2000)])
		}
		t.Errorf("opening ended the process: %s", crash)
	} else {
		caddytest.WantError(t, errors.New(string(output)), wants...)
	}
	wantUnchanged(t, before, contents(t, dir))
}

// contents returns a digest of each file, but for Badger's lock.
func contents(t *testing.T, path string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(path, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Name() == "LOCK" {
			return err
		}
		files[path] = entry.Type().String()
		if entry.Type().IsRegular() {
			content, err := os.ReadFile(path)
			files[path] = fmt.Sprintf("%d bytes, %x", len(content), sha256.Sum256(content))
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// wantUnchanged compares what is in a directory with what was.
func wantUnchanged(t *testing.T, before, after map[string]string) {
	t.Helper()
	for path, content := range before {
		if now, there := after[path]; !there {
			t.Errorf("%s was removed", filepath.Base(path))
		} else if now != content {
			t.Errorf("%s was changed: %s, now %s", filepath.Base(path), content, now)
		}
	}
	for path, content := range after {
		if _, there := before[path]; !there {
			t.Errorf("%s was made: %s", filepath.Base(path), content)
		}
	}
}
