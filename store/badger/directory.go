package badger

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

const (
	// markFile marks a directory as a store, so that a path with a typo does
	// not turn another directory into a database.
	markFile    = "INSTANTAPI_VERIFY"
	markContent = "instantapi_verify store, format 1\n"

	// unfinishedFile is in a directory while a backup is written there.
	unfinishedFile = markFile + ".unfinished"
)

// checkDirectory makes the directory if it is missing, and checks that it is a
// store or empty.
func checkDirectory(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		if _, cause := os.Stat(path); errors.Is(err, fs.ErrExist) && cause != nil && !errors.Is(cause, fs.ErrNotExist) {
			err = cause // it exists, but can't be examined
		}
		return explain("it can't be made", err, "give a path that the user who runs Caddy may write to")
	}
	files, err := os.ReadDir(path)
	if err != nil {
		return explain("it can't be read", err, giveToUser)
	}
	mark, err := os.ReadFile(filepath.Join(path, markFile))
	switch {
	case err == nil && string(mark) == markContent:
		return nil
	case err == nil:
		return fmt.Errorf("it was made by another version of this module (%s says %q); use that version, or another path", markFile, strings.TrimSpace(string(mark)))
	case !errors.Is(err, fs.ErrNotExist):
		return explain("it can't be read", err, giveToUser)
	}
	if exists(filepath.Join(path, unfinishedFile)) {
		return errors.New("it holds a backup that was not finished; give a finished one, or a new or empty directory")
	}
	for _, file := range files {
		// lost+found is in the root of a file system, a good place for a store
		if name := file.Name(); name != "lost+found" && name != markFile+".new" {
			return fmt.Errorf("it holds something else (%s); give a new or empty directory", name)
		}
	}
	return nil
}

// markDirectory writes the mark file, wholly or not at all, even if the power
// fails.
func markDirectory(path string) error {
	mark := filepath.Join(path, markFile)
	if _, err := os.Stat(mark); err == nil {
		return nil
	}
	if err := writeWhole(mark, markContent); err != nil {
		return explain("it can't be written to", err, giveToUser)
	}
	return nil
}

// writeWhole replaces a file, wholly or not at all, even if the power fails.
func writeWhole(name, content string) error {
	if err := writeSynced(name+".new", content); err != nil {
		return err
	}
	if err := os.Rename(name+".new", name); err != nil {
		return err
	}
	return syncDirectory(filepath.Dir(name))
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
		return nil // it can't, and need not
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

var errInUse = errors.New("another process has it open, usually another Caddy; use 'caddy reload' to change that one's config, or give this one another path")

// lockError says why the directory can't be locked although no process has
// locked it.
type lockError struct {
	err    error
	remedy string
}

func (e lockError) Error() string {
	return fmt.Sprintf("it can't be locked: %v; %s", e.err, e.remedy)
}

func (e lockError) Unwrap() error { return e.err }

// badgersLock is the text of Badger's error for every failure of its lock.
const badgersLock = "Another process is using this Badger database"

// isInterruptedLock reports whether a signal interrupted Badger's attempt at
// its lock. Badger does not try again.
func isInterruptedLock(err error) bool {
	return err != nil && strings.Contains(err.Error(), badgersLock) && strings.Contains(err.Error(), syscall.EINTR.Error())
}

// explainBadgerLock explains why Badger could not lock the directory shortly
// after checkLock could. Badger blames every error on another process.
func explainBadgerLock(path string, err error) error {
	if again := checkLock(path); again != nil {
		return again
	}
	_, cause, _ := strings.Cut(err.Error(), "err: ")
	return lockError{errors.New(cause), "try again"}
}
