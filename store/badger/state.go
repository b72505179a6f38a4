package badger

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"

	"go.uber.org/zap"
)

// The state file tells a database whose log is missing from one that needs
// none, and a database whose files were cut off unnoticeably from one that
// really ends there.
//
// There is a log while a store is open, and none after it has been closed. A
// copy of the files of an open store may lack one, because Badger may have
// removed a log and made another during the copying.
const stateFile = "STATE"

// storeState is what the state file says.
type storeState struct {
	kind    stateKind
	version uint64 // events up to this batch are in the files
}

type stateKind string

const (
	stateOpening stateKind = "opening"
	stateOpen    stateKind = "open"
	stateClosed  stateKind = "closed" // or being closed
)

// readState returns the zero state if the state file is missing or damaged. A
// damaged one is no error, because it holds no events.
func readState(path string) (state storeState, err error) {
	content, err := os.ReadFile(filepath.Join(path, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return storeState{}, nil
	}
	if err != nil {
		return storeState{}, err
	}
	if _, err := fmt.Sscanf(string(content), "%s %d", &state.kind, &state.version); err != nil || state.encode() != string(content) {
		storeLog().Warn("the store's state file is damaged; opening the store without it", zap.String("path", path))
		return storeState{}, nil
	}
	return state, nil
}

// writeState replaces the state file, wholly or not at all, even if the power
// fails.
func writeState(path string, state storeState) error {
	return writeWhole(filepath.Join(path, stateFile), state.encode())
}

func (s storeState) encode() string {
	content := fmt.Sprintf("%s %d", s.kind, s.version)
	return fmt.Sprintf("%s %08x\n", content, crc32.Checksum([]byte(content), castagnoli))
}
