package badger

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/internal/faultfs"
)

func init() {
	children["open impatiently"] = func(dir string) {
		progressInterval = 50 * time.Millisecond
		fmt.Print(openAndLook(dir))
	}
	children["open and look"] = func(dir string) { fmt.Print(openAndLook(dir)) }
}

// progressLine is what a store logs while it is being opened.
type progressLine struct {
	Level    string
	Msg      string
	Path     string
	Tables   int64
	OfTables int64 `json:"of_tables"`
	Bytes    int64
	OfBytes  int64 `json:"of_bytes"`
}

// progressLines runs a child and returns the progress that it logs.
func progressLines(t *testing.T, child *exec.Cmd) (lines []progressLine) {
	t.Helper()
	logged := new(bytes.Buffer)
	child.Stderr = logged
	if output, err := child.Output(); err != nil || string(output) != "<nil>" {
		t.Fatalf("opening: %v %s\n%.2000s", err, output, logged)
	}
	for text := range strings.Lines(logged.String()) {
		var line progressLine
		if err := json.Unmarshal([]byte(text), &line); err == nil && strings.Contains(line.Msg, "being opened") {
			lines = append(lines, line)
		}
	}
	return lines
}

// A store that takes long to open logs its progress.
func TestSlowOpeningLogsItsProgress(t *testing.T) {
	disk := faultfs.Mount(t)
	for name, whole := range map[string]wholeStore{"tables": closedStore(t), "a log": crashedStore(t)} {
		t.Run(name, func(t *testing.T) {
			base := "store with " + name
			whole.copy(t, filepath.Join(disk.Below, base))
			var total int64
			for _, pattern := range []string{"*.sst", "*.mem"} {
				files, _ := filepath.Glob(filepath.Join(whole.dir, pattern))
				for _, file := range files {
					info, err := os.Stat(file)
					if err != nil {
						t.Fatal(err)
					}
					total += info.Size()
				}
			}
			disk.Set(faultfs.Faults{ReadRate: int(total)}) // about a second
			dir := filepath.Join(disk.Dir, base)
			lines := progressLines(t, childCommand("open impatiently", dir))
			if len(lines) < 5 {
				t.Fatalf("%d lines are logged: %+v", len(lines), lines)
			}
			for i, line := range lines {
				if line.Level != "info" || line.Path != dir || line.Tables > 2 || line.OfTables != 2 || line.Bytes > total || line.OfBytes != total {
					t.Errorf("line %d is %+v, want tables of 2, bytes of %d", i, line, total)
				}
				if i > 0 && (line.Bytes < lines[i-1].Bytes || line.Tables < lines[i-1].Tables) {
					t.Errorf("after %+v comes %+v", lines[i-1], line)
				}
			}
			if first, last := lines[0].Bytes, lines[len(lines)-1].Bytes; first >= last || last < total/2 {
				t.Errorf("%d bytes at first and %d at last, of %d: no progress", first, last, total)
			}
		})
	}
}

// A store that opens at once logs no progress.
func TestFastOpeningLogsNoProgress(t *testing.T) {
	whole := crashedStore(t)
	dir := filepath.Join(t.TempDir(), "store")
	whole.copy(t, dir)
	if lines := progressLines(t, childCommand("open and look", dir)); len(lines) > 0 {
		t.Errorf("%d lines are logged: %+v", len(lines), lines)
	}
}
