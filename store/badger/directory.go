package badger

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

const (
	// markFile tells our directory from any other, so that a path with a typo
	// does not turn somebody's folder into a database.
	markFile    = "INSTANTAPI_VERIFY"
	markContent = "instantapi_verify store, format 1\n"
)

// checkDirectory makes the directory, and makes sure that it is ours, or empty.
func checkDirectory(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return fmt.Errorf("it can't be made: %w; give a path that the user who runs Caddy may write to", err)
	}
	files, err := os.ReadDir(path)
	if err != nil {
		return fmt.Errorf("it can't be read: %w; give it to the user who runs Caddy", err)
	}
	mark, err := os.ReadFile(filepath.Join(path, markFile))
	switch {
	case err == nil && string(mark) == markContent:
		return nil
	case err == nil:
		return fmt.Errorf("it was made by another version of this module (%s says %q); use that version, or another path", markFile, strings.TrimSpace(string(mark)))
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w; give it to the user who runs Caddy", err)
	}
	for _, file := range files {
		// lost+found: a file system of its own is a good place for a store
		if name := file.Name(); name != "lost+found" && name != markFile+".new" {
			return fmt.Errorf("it holds something else (%s); give an empty or a new directory", name)
		}
	}
	return nil
}

const restoreAdvice = "restore the directory from a backup, or move it away to start with an empty store, which forwards again whatever is sent again"

// markDirectory writes the mark, whole or not at all, also at a power cut.
func markDirectory(path string) error {
	mark := filepath.Join(path, markFile)
	if _, err := os.Stat(mark); err == nil {
		return nil
	}
	if err := writeSynced(mark+".new", markContent); err != nil {
		return fmt.Errorf("it can't be written to: %w; give it to the user who runs Caddy", err)
	}
	if err := os.Rename(mark+".new", mark); err != nil {
		return err
	}
	return syncDirectory(path)
}

func writeSynced(name, content string) error {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.WriteString(content); err != nil {
		return err
	}
	return file.Sync()
}

// syncDirectory makes the names in a directory durable.
func syncDirectory(path string) error {
	if runtime.GOOS == "windows" {
		return nil // can't, and need not
	}
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// lockFile is Badger's. On Windows it is the lock; elsewhere it holds the number of
// the process that has locked the directory.
const lockFile = "LOCK"

var errInUse = errors.New("another process has it open; this is usually another Caddy, in which case use 'caddy reload' to change its config, or give this one another path")

// lockError says why the directory can't be locked although nobody has locked it.
type lockError struct {
	err    error
	remedy string
}

func (e lockError) Error() string {
	return fmt.Sprintf("it can't be locked: %v; %s", e.err, e.remedy)
}

func (e lockError) Unwrap() error { return e.err }

// explainBadgerLock explains why Badger could not lock the directory, shortly after
// checkLock could. Badger says of each error that another process is the cause.
func explainBadgerLock(path string, err error) error {
	if again := checkLock(path); again != nil {
		return again
	}
	_, cause, _ := strings.Cut(err.Error(), "err: ")
	return lockError{errors.New(cause), "try again"}
}

// explainOpen adds the remedy to an error from Badger. Badger has no error
// values for these, so its words decide.
func explainOpen(path string, err error) error {
	if strings.Contains(err.Error(), "Another process is using this Badger database") {
		return explainBadgerLock(path, err)
	}
	denied := errors.Is(err, fs.ErrPermission) || strings.Contains(err.Error(), "permission denied") // Badger does not always wrap
	if denied || strings.Contains(err.Error(), "read-only file system") {
		return fmt.Errorf("it can't be written to: %w; give it to the user who runs Caddy", err)
	}
	return fmt.Errorf("it is damaged, or not a database of this version: %w; %s", err, restoreAdvice)
}
