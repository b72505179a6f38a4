package badger

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
)

const (
	restoreAdvice = "restore the directory from a backup, or move it away to start with an empty store, with which everything that is sent again is forwarded again"
	giveToUser    = "give it to the user who runs Caddy, with all its files"
)

// failure is a kind of error of the operating system, and what to do about it.
type failure struct {
	codes  []syscall.Errno
	remedy string
}

var failures = []failure{
	{permissionCodes, giveToUser},
	{readOnlyCodes, "mount its file system for writing, and give it to the user who runs Caddy"},
	{tooManyFilesCodes, "raise the number of files that Caddy may have open (LimitNOFILE= of a systemd service, ulimit -n)"},
	{noMemoryCodes, "make memory available, or raise the limits of Caddy's process"},
	{diskCodes, "see what the system's log says about this disk"},
}

// explain says what was tried and what to do: what helps against the system's
// failure if it is known, otherwise the given remedy. A lack of space is an
// errNoSpace.
func explain(tried string, err error, remedy string) error {
	if isFailure(err, noSpaceCodes) {
		return fmt.Errorf("%w: %s: %w; make room, or choose another path", errNoSpace, tried, err)
	}
	for _, failure := range failures {
		if isFailure(err, failure.codes) {
			remedy = failure.remedy
			break
		}
	}
	return fmt.Errorf("%s: %w; %s", tried, oneLine{err}, remedy)
}

// oneLine is an error whose text is a single line. Some of Badger's have
// several.
type oneLine struct{ error }

func (e oneLine) Error() string { return strings.Join(strings.Fields(e.error.Error()), " ") }
func (e oneLine) Unwrap() error { return e.error }

// isFailure reports whether an error is one of these. Badger does not always
// wrap an error, so its text counts too.
func isFailure(err error, codes []syscall.Errno) bool {
	for _, code := range codes {
		if errors.Is(err, code) || strings.Contains(err.Error(), code.Error()) {
			return true
		}
	}
	return false
}

// explainOpen adds the remedy to an error of opening the database.
func explainOpen(path string, err error) error {
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, errDamaged):
		return fmt.Errorf("%w; %s (after a power cut with sync off, open it once with sync off)", err, restoreAdvice)
	case strings.Contains(err.Error(), badgersLock):
		return explainBadgerLock(path, err)
	case isFailure(err, readOnlyCodes):
		return explain("it can't be written to", err, giveToUser)
	case errors.Is(err, fs.ErrPermission):
		return explain("it can't be read or written", err, giveToUser)
	}
	for _, content := range []string{"Level validation", "CHECKSUM_MISMATCH", "checksum mismatch"} {
		if strings.Contains(err.Error(), content) { // damage that examine did not find
			return explainOpen(path, damagef("%w", err))
		}
	}
	if isSystemError(err) {
		return explain("it can't be opened", err, "see what is wrong with its file system, or choose another path")
	}
	return explain("it can't be opened", err, "if nothing else helps, "+restoreAdvice)
}
