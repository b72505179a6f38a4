package badger

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/dgraph-io/ristretto/v2/z"
)

// prepare makes the examined files ready for Badger.
//
// Badger also reads what follows the whole batches of a log, and may allocate
// gigabytes of memory if that is garbage. It does not open a database with an
// empty log. And its other files, which hold no events, can make it fail or end
// the process if they are damaged.
func prepare(path string, found findings) error {
	if err := writeState(path, storeState{stateOpening, found.known}); err != nil {
		return err
	}
	for _, log := range found.logs {
		name := filepath.Join(path, log.name)
		switch {
		case log.size == 0:
			if err := os.Remove(name); err != nil {
				return err
			}
		case log.begun:
			if err := os.Truncate(name, int64(log.batches)); err != nil {
				return err
			}
		}
	}
	for _, name := range found.names.others {
		if err := removeUseless(filepath.Join(path, name)); err != nil {
			return err
		}
	}
	return makeDiscardFile(filepath.Join(path, discardFile))
}

// makeDiscardFile makes the file in which Badger counts the garbage in its
// value log. Badger ends the process if it can't make that file.
func makeDiscardFile(name string) error {
	if exists(name) {
		return nil
	}
	file, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	err = file.Truncate(discardSize)
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	return tryMapping(name)
}

// removeUseless removes a file that holds no events if Badger might not be able
// to read it. Badger makes a new one.
func removeUseless(name string) error {
	content, err := readBeginning(name)
	if err != nil {
		return err
	}
	useless := false
	switch base := filepath.Base(name); {
	case base == keyRegistry:
		// a registry without a key holds an initialization vector and a text
		useless = len(content) != 16+len(keyRegistryText) || !bytes.HasSuffix(content, []byte(keyRegistryText))
	case base == discardFile:
		useless = len(content) != discardSize || len(bytes.Trim(content, "\x00")) > 0
	case strings.HasSuffix(base, valueLogSuffix):
		// All values are in the tables, see valueThreshold.
		useless = len(content) < logHeaderSize || len(bytes.Trim(content[:8], "\x00")) > 0 || len(bytes.TrimRight(content[logHeaderSize:], "\x00")) > 0
	}
	if !useless {
		return nil
	}
	return os.Remove(name)
}

const (
	keyRegistryText = "Hello Badger"
	discardSize     = 1 << 20
)

// readBeginning reads the first 4 MiB of a file.
func readBeginning(name string) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, 4<<20))
}

// spareFiles is the number of files to reserve for what Badger opens in
// addition (its lock, a log, a value log and the directory) and for what Caddy
// opens meanwhile.
const spareFiles = 16

// rehearse opens and maps all files at once, as Badger does while it opens a
// database. If Badger can't open one of them it ends the process, or leaks
// those that it has opened before.
func rehearse(path string) (err error) {
	names, err := listFiles(path)
	if err != nil {
		return err
	}
	files := names.all(path)
	beside := []string{pulseFile}
	if runtime.GOOS != "windows" { // there it is the lock itself, and missing
		beside = append(beside, lockFile)
	}
	for _, name := range beside {
		if name = filepath.Join(path, name); exists(name) {
			files = append(files, name)
		}
	}
	for _, name := range files {
		closeFile, err := openMapped(name)
		if err != nil {
			return err
		}
		defer closeFile()
	}
	for range spareFiles {
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		defer file.Close()
	}
	return nil
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// tryMapping opens and maps a file, and closes it again.
func tryMapping(name string) error {
	closeFile, err := openMapped(name)
	if err != nil {
		return err
	}
	closeFile()
	return nil
}

// openMapped opens a file for reading and writing and maps it.
func openMapped(name string) (closeFile func(), err error) {
	file, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil || info.Size() == 0 {
		return func() { file.Close() }, err
	}
	mapped, err := z.Mmap(file, true, info.Size())
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("mapping %s: %w", name, err)
	}
	return func() {
		_ = z.Munmap(mapped)
		file.Close()
	}, nil
}
