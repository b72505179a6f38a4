package badger

import (
	"errors"
	"os/exec"
	"testing"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
	"golang.org/x/sys/unix"
)

// lockFailing opens a store in an empty directory, with all calls of flock
// failing, and returns what the child says.
func lockFailing(t *testing.T, errno string) error {
	t.Helper()
	strace, err := exec.LookPath("strace")
	if err != nil {
		caddytest.Missing(t, "%v", err)
	}
	child := childCommand("open", t.TempDir())
	child.Args = []string{strace, "-f", "-qq", "-o", "/dev/null", "-e", "trace=flock",
		"-e", "inject=flock:error=" + errno, child.Path}
	child.Path = strace
	output, err := child.Output()
	if err != nil {
		caddytest.Missing(t, "strace: %v %s", err, output)
	}
	return errors.New(string(output))
}

// Only a lock that another process holds means that the store is in use.
func TestEachErrorOfALockIsExplained(t *testing.T) {
	without := []string{"it can't be locked", "its file system has no locks", "choose a path on a local disk"}
	for errno, wants := range map[string][]string{
		"EAGAIN":     {"another process has it open"},
		"ENOLCK":     append(without, unix.ENOLCK.Error()),
		"ENOSYS":     append(without, unix.ENOSYS.Error()),
		"EOPNOTSUPP": append(without, unix.EOPNOTSUPP.Error()),
		"EIO":        {"it can't be locked", unix.EIO.Error(), "check its file system"},
		"EACCES":     {"it can't be locked", unix.EACCES.Error()},
		"EINVAL":     {"it can't be locked", unix.EINVAL.Error()},
	} {
		t.Run(errno, func(t *testing.T) { caddytest.WantError(t, lockFailing(t, errno), wants...) })
	}
}

// Badger takes every error of its lock for another process.
func TestErrorsOfBadgersLockAreExplained(t *testing.T) {
	dir := t.TempDir()
	fromBadger := errors.New("Cannot acquire directory lock on \"dir\".  Another process is using this Badger database. err: " + unix.ENOLCK.Error())
	caddytest.WantError(t, explainOpen(dir, fromBadger), "it can't be locked: "+unix.ENOLCK.Error()+"; try again")
	testStore(t, dir, true)
	if err := explainOpen(dir, fromBadger); !errors.Is(err, errInUse) {
		t.Errorf("with another process: got %v, want errInUse", err)
	}
}
