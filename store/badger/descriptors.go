package badger

import (
	"errors"
	"os"
	"path/filepath"
)

// turnFiles is how many files Badger may open at once when it switches from a
// full memtable to a new one: a log, a table, and those of a compaction.
const turnFiles = 8

// errNoLog means that Badger has no log to write to. The next commit would end
// the process.
var errNoLog = errors.New("the database could not begin a new log; restart Caddy")

// readyToTurn returns an error if Badger must not be given more to write,
// because it could not begin a new log, or might have to and can't.
func (s *database) readyToTurn() error {
	if s.noLog {
		return errNoLog
	}
	if !s.turn.nearlyFull() {
		return nil
	}
	return canOpenMore(s.path)
}

// canOpenMore returns an error if the process can't open turnFiles more files.
func canOpenMore(dir string) error {
	var opened [turnFiles]*os.File
	var err error
	for i := range opened {
		if opened[i], err = os.Open(filepath.Join(dir, markFile)); err != nil {
			err = explain("opening the files of a new log", err, "see the log of the system")
			break
		}
	}
	for _, file := range opened {
		if file != nil {
			file.Close()
		}
	}
	return err
}
