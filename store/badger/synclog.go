package badger

import (
	"os"
	"path/filepath"
	"runtime"
)

// Badger syncs a log with msync. That is enough on the BSDs, where msync syncs
// the file. On macOS it leaves what was written in the drive's cache, and on
// Windows Badger syncs neither its logs nor its tables.
const (
	// syncs is false on systems where acknowledged events can't be made
	// durable.
	syncs = runtime.GOOS != "windows"

	// syncsLogByFile is true on systems where the log is synced by its file,
	// see syncFile. On macOS that comes on top of msync, to empty the drive's
	// cache. Tables need nothing more: Badger syncs its manifest by its file,
	// after the msync of a table and before the table's log is removed.
	syncsLogByFile = runtime.GOOS == "darwin" || !badgerSyncs

	// badgerSyncs is false on systems where that replaces Badger's own sync.
	// Badger also syncs its value log, which is always empty; but the disk has
	// to empty its cache for that too, which would be a third of a commit's
	// time. On Linux msync is an fdatasync of the file.
	badgerSyncs = runtime.GOOS != "linux"
)

// logSync syncs the log in use by its file.
type logSync struct {
	dir    string
	number uint64 // of the log in file
	file   *os.File
	sync   func(*os.File) error
}

// newest syncs the newest log, which holds the whole last batch.
func (l *logSync) newest() error {
	newest := l.number
	for exists(l.name(newest + 1)) {
		newest++
	}
	if l.file == nil || newest != l.number {
		l.close()
		file, err := os.OpenFile(l.name(newest), os.O_RDWR, 0)
		if err != nil {
			return err
		}
		l.file, l.number = file, newest
	}
	return l.sync(l.file)
}

func (l *logSync) name(number uint64) string {
	return filepath.Join(l.dir, logName(number))
}

func (l *logSync) close() {
	if l.file != nil {
		l.file.Close()
		l.file = nil
	}
}
