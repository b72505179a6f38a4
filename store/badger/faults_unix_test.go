//go:build unix

package badger

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	badgerdb "github.com/dgraph-io/badger/v4"
	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
)

// These tests of permissions need a user without root's permissions.

const nobody = 65534

// openDir returns a new directory that everybody may read.
func openDir(t *testing.T) string {
	t.Helper()
	open, err := os.MkdirTemp("", "open")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(open) })
	if err := os.Chmod(open, 0o755); err != nil {
		t.Fatal(err)
	}
	return open
}

// becomeNobody makes a child of root run as an unprivileged user, with its
// program in an openDir, where that user may run it.
func becomeNobody(t *testing.T, cmd *exec.Cmd, open string) {
	t.Helper()
	content, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	cmd.Path = filepath.Join(open, "program")
	if err := os.WriteFile(cmd.Path, content, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd.Dir = open
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
}

func TestReadOnlyDirectoryIsRefused(t *testing.T) {
	open := openDir(t)
	dir := filepath.Join(open, "store")
	if err := os.Mkdir(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	cmd := childCommand("open", dir)
	if os.Getuid() == 0 { // who may write everywhere
		if err := os.Chown(dir, nobody, nobody); err != nil {
			t.Fatal(err)
		}
		becomeNobody(t, cmd, open)
	}
	wantRefusedBy(t, cmd, dir, "can't be written to", "give it to the user who runs Caddy")
}

// An unprivileged process refuses a directory of another user.
func TestDirectoryOfAnotherUserIsRefused(t *testing.T) {
	if os.Getuid() != 0 {
		caddytest.Missing(t, "becoming another user takes root")
	}
	open := openDir(t)
	good, _ := storeWithTables(t)
	for name, test := range map[string]struct {
		mode  os.FileMode
		empty bool
	}{
		"empty":       {0o755, true},
		"empty, ours": {0o700, true},
		"store":       {0o755, false},
		"store, ours": {0o700, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(open, name)
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if !test.empty {
				if err := os.CopyFS(dir, os.DirFS(good)); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Chmod(dir, test.mode); err != nil {
				t.Fatal(err)
			}
			cmd := childCommand("open", dir)
			becomeNobody(t, cmd, open)
			wantRefusedBy(t, cmd, dir, "denied", "give it to the user who runs Caddy")
		})
	}
}

// A file of another user in a store of Caddy's own user is named, and is not called
// damaged.
func TestFileOfAnotherUserIsNoDamage(t *testing.T) {
	if os.Getuid() != 0 {
		caddytest.Missing(t, "becoming another user takes root")
	}
	open := openDir(t)
	whole := crashedStore(t)
	for _, pattern := range []string{markFile, badgerdb.ManifestFilename, "*.mem", "*.sst", "*.vlog", discardFile, keyRegistry, stateFile, lockFile, pulseFile} {
		t.Run(pattern, func(t *testing.T) {
			dir := filepath.Join(open, "store of "+strings.Trim(pattern, "*."))
			whole.copy(t, dir)
			all, err := filepath.Glob(filepath.Join(dir, "*"))
			if err != nil {
				t.Fatal(err)
			}
			files, _ := filepath.Glob(filepath.Join(dir, pattern))
			give := func(uid int, files ...string) {
				for _, file := range files {
					if err := os.Chown(file, uid, uid); err != nil {
						t.Fatal(err)
					}
				}
			}
			give(nobody, append(all, dir)...)
			give(0, files...)
			for _, file := range files {
				if err := os.Chmod(file, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			before := contents(t, dir)
			child := childCommand("open twice", dir)
			becomeNobody(t, child, open)
			first, second := askTwice(t, child, func() {
				wantUnchanged(t, before, contents(t, dir))
				give(nobody, files...)
			})
			wantNotDamaged(t, first, "permission denied", giveToUser, strings.Trim(pattern, "*"))
			if second != "opened" {
				t.Errorf("after the files were given to Caddy's user: %s", second)
			}
		})
	}
}
