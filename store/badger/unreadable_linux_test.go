package badger

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	badgerdb "github.com/dgraph-io/badger/v4"
	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
	"github.com/instantapi/caddy-instantapi-verify/internal/faultfs"
	"golang.org/x/sys/unix"
)

// Only wrong content is called damaged, because the remedy for damage loses all
// events.

// unreadable is a fault of a single file of a whole store.
type unreadable struct {
	file  string // a pattern
	op    faultfs.Op
	errno syscall.Errno
	want  string
}

const (
	seeDisk      = "see what the system's log says about this disk"
	moreMemory   = "make memory available"
	moreFiles    = "raise the number of files that Caddy may have open"
	mountWriting = "mount its file system for writing"
)

// unreadables are what a file system can fail with while a store is opened.
func unreadables() (faults []unreadable) {
	for _, file := range []string{markFile, badgerdb.ManifestFilename, "*.mem", "*.sst", "*.vlog", discardFile, keyRegistry, stateFile} {
		faults = append(faults, unreadable{file, faultfs.Read, syscall.EIO, seeDisk}, unreadable{file, faultfs.Open, syscall.ENOMEM, moreMemory})
		if caddytest.Long() {
			faults = append(faults, unreadable{file, faultfs.Read, syscall.ENOMEM, moreMemory}, unreadable{file, faultfs.Open, syscall.EIO, seeDisk},
				unreadable{file, faultfs.Open, syscall.EBUSY, "see what is wrong with its file system"})
		}
	}
	return append(faults,
		unreadable{"store*", faultfs.Readdir, syscall.EIO, seeDisk},
		unreadable{"store*", faultfs.Open, syscall.ENOMEM, moreMemory},
		unreadable{"store*", faultfs.Getattr, syscall.EIO, seeDisk},
		unreadable{"store*", faultfs.Open, syscall.EMFILE, moreFiles},
		unreadable{lockFile, faultfs.Open, syscall.EIO, seeDisk},
		unreadable{pulseFile, faultfs.Open, syscall.EIO, seeDisk},
		unreadable{"*.mem", faultfs.Create, syscall.ENFILE, moreFiles},
		unreadable{"*.mem", faultfs.Setattr, syscall.ETIMEDOUT, "see what is wrong with its file system"},
		unreadable{"*.mem", faultfs.Fsync, syscall.EIO, seeDisk},
		unreadable{"*.vlog", faultfs.Create, syscall.EACCES, giveToUser},
		unreadable{"*.sst", faultfs.Create, syscall.EIO, seeDisk},
		unreadable{"*.sst", faultfs.Fsync, syscall.EIO, seeDisk},
		unreadable{"*.sst", faultfs.Setattr, syscall.ENOSPC, "make room"},
		unreadable{badgerdb.ManifestFilename, faultfs.Setattr, syscall.EROFS, mountWriting},
		unreadable{stateFile + ".new", faultfs.Create, syscall.EROFS, mountWriting},
		unreadable{stateFile + ".new", faultfs.Write, syscall.ENOSPC, "make room"},
		unreadable{stateFile + ".new", faultfs.Rename, syscall.EDQUOT, "make room"},
	)
}

// A whole store on a failing file system is refused with the failure, and opens
// once that has ended, in the same process.
func TestFailingFileIsNoDamage(t *testing.T) {
	disk := faultfs.Mount(t)
	whole := crashedStore(t)
	for i, fault := range unreadables() {
		t.Run(fmt.Sprintf("%s/%s/%s", fault.file, fault.op, unix.ErrnoName(fault.errno)), func(t *testing.T) {
			name := fmt.Sprint("store", i)
			whole.copy(t, filepath.Join(disk.Below, name))
			disk.Set(faultfs.Faults{Fail: map[faultfs.Op]syscall.Errno{fault.op: fault.errno}, Names: fault.file})
			first, second := askTwice(t, childCommand("open twice", filepath.Join(disk.Dir, name)), func() { disk.Set(faultfs.Faults{}) })
			wantNotDamaged(t, first, "store directory ", fault.errno.Error(), fault.want, strings.Trim(fault.file, "*"))
			if second != "opened" {
				t.Errorf("after the fault: %s", second)
			}
		})
	}
}

// The error says so if the process may open too few files.
func TestTooFewFilesAreNoDamage(t *testing.T) {
	prlimit := caddytest.LookPath(t, "prlimit")
	whole := crashedStore(t)
	step := 5
	if caddytest.Long() {
		step = 1
	}
	refused := 0
	for limit := 12; ; limit += step {
		dir := filepath.Join(t.TempDir(), "store")
		whole.copy(t, dir)
		child := childCommand("open twice", dir)
		child.Args = []string{prlimit, fmt.Sprintf("--nofile=%d:%d", limit, limit), child.Path}
		child.Path = prlimit
		answer, _ := askTwice(t, child, func() {})
		if answer == "opened" {
			break
		}
		refused++
		wantNotDamaged(t, answer, "too many open files", moreFiles, dir)
		second, _ := askTwice(t, childCommand("open twice", dir), func() {})
		if t.Failed() || second != "opened" {
			t.Fatalf("with %d files: %s; then %s", limit, answer, second)
		}
	}
	if refused < 3 {
		t.Errorf("refused with %d limits, want more", refused)
	}
}

// A file that can't be mapped is named.
func TestUnmappableFileIsNoDamage(t *testing.T) {
	strace := caddytest.LookPath(t, "strace")
	whole := crashedStore(t)
	for _, test := range []struct {
		file    string
		removed bool // and made anew
	}{
		{"00001.mem", false}, {"00002.mem", false}, {"000001.sst", false}, {"000003.vlog", false},
		{"000004.vlog", false}, {discardFile, false}, {discardFile, true},
	} {
		t.Run(fmt.Sprint(test.file, " removed ", test.removed), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "store")
			whole.copy(t, dir)
			file := filepath.Join(dir, test.file)
			if test.removed {
				if err := os.Remove(file); err != nil {
					t.Fatal(err)
				}
			}
			child := childCommand("open twice", dir)
			child.Args = []string{strace, "-f", "-qq", "-o", "/dev/null", "-P", file, "-e", "trace=mmap", "-e", "inject=mmap:error=ENOMEM", child.Path}
			child.Path = strace
			first, _ := askTwice(t, child, func() {})
			wantNotDamaged(t, first, syscall.ENOMEM.Error(), moreMemory, file)
			if second, _ := askTwice(t, childCommand("open twice", dir), func() {}); second != "opened" {
				t.Errorf("after the fault: %s", second)
			}
		})
	}
}
