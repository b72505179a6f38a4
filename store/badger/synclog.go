package badger

import (
	"os"
	"path/filepath"
	"runtime"
)

// Badger syncs a log with msync. That is enough on the BSDs, which sync the file with
// it. On macOS it leaves what was written in the drive's cache, and on Windows Badger
// does nothing at all, for its tables neither.
const (
	// syncs is false where what was acknowledged can't be made durable.
	syncs = runtime.GOOS != "windows"

	// syncsLogByFile is true where the log is synced by its file, see syncFile. On
	// macOS that comes on top of msync, to empty the drive's cache. Tables need no
	// more, because Badger syncs its manifest so, and that is after their msync and
	// before their log is removed.
	syncsLogByFile = runtime.GOOS == "darwin" || !badgerSyncs

	// badgerSyncs is false where that takes the place of Badger's own sync. Badger
	// syncs its value log besides, in which there is never anything; but the disk has
	// to empty its cache for it, too, which is a third of what a commit waits for. On
	// Linux msync is an fdatasync of the file.
	badgerSyncs = runtime.GOOS != "linux"
)

// logSync syncs the log in use by its file.
type logSync struct {
	dir    string
	number uint64 // of the log in file
	file   *os.File
	sync   func(*os.File) error
}

// newest syncs the newest log: a batch is in one log as a whole.
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
