package faultfs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Op is an operation of a file system.
type Op string

// The operations that faults apply to.
const (
	Read    Op = "read"   // also a page fault in a mapped file
	Write   Op = "write"  // also the kernel's writing of what a mapped file got
	Fsync   Op = "fsync"  // of files and of directories, also msync
	Open    Op = "open"   // of files and of directories
	Create  Op = "create" // of files and of directories
	Remove  Op = "remove" // of files and of directories
	Rename  Op = "rename"
	Lookup  Op = "lookup"  // of a name, so nearly everything that takes a path
	Getattr Op = "getattr" // also what reads a size
	Setattr Op = "setattr" // also truncate
	Readdir Op = "readdir"
	Statfs  Op = "statfs"
)

// All are all operations: with these hanging the disk is gone.
var All = []Op{Read, Write, Fsync, Open, Create, Remove, Rename, Lookup, Getattr, Setattr, Readdir, Statfs}

// Faults say what goes wrong. The zero value is a file system without faults.
type Faults struct {
	// Hang lists the operations that don't return. They can't be interrupted,
	// not even by a kill, as those of a hung disk can't.
	Hang []Op

	// Fail maps operations to the errors that they fail with.
	Fail map[Op]syscall.Errno

	// Names is a pattern for [path.Match]: only files with such names are
	// affected by Hang and Fail. Default: all files, and [Statfs] too.
	Names string

	// ReadRate bounds reads, in bytes a second. Default: no bound.
	ReadRate int

	// Space is what statfs says. Default: what the file system below says.
	Space *Space
}

// Space is the part of statfs's answer that tells free space.
type Space struct {
	BlockSize    uint32 // for reads and writes
	FragmentSize uint32 // which the others are counted in
	Blocks, Free uint64
	Available    int64 // to a user without privileges; below 0 on some systems
}

// hangLimit is how long a hang lasts at most, so that a test that fails leaves
// nothing behind that can't be killed.
const hangLimit = 2 * time.Minute

// FS is a mounted file system.
type FS struct {
	// Dir is where it is mounted.
	Dir string

	// Below is the directory that it passes through to. What is done there
	// directly meets no faults.
	Below string

	t       testing.TB
	mu      sync.Mutex
	server  *exec.Cmd
	replies *json.Decoder
	command *json.Encoder
	output  bytes.Buffer
}

// Mount mounts a file system for the length of the test. A test that starts
// processes on it must heal it, with [FS.Set], before it waits for them to end.
//
// The file system is served by a process of its own: a goroutine that waits for a
// page of a mapped file keeps its processor, so that in the same process nobody
// might be left to serve the page.
func Mount(t testing.TB) *FS {
	t.Helper()
	if os.Geteuid() != 0 {
		missing(t, "a FUSE file system takes root")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		missing(t, err.Error())
	}
	f := &FS{Dir: t.TempDir(), Below: t.TempDir(), t: t}
	if err := f.start(); err != nil {
		missing(t, fmt.Sprintf("FUSE: %v %s", err, &f.output))
	}
	return f
}

// missing skips a test that this machine can't run, or fails it where all tests
// must run.
func missing(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("INSTANTAPI_VERIFY_TEST_ALL") != "" {
		t.Fatal(why)
	}
	t.Skip(why)
}

func (f *FS) start() error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	f.server = exec.Command(program)
	f.server.Env = append(os.Environ(), serveVariable+"="+f.Below+string(filepath.ListSeparator)+f.Dir)
	f.server.Stderr = &f.output
	// Its end is what tells the server to go, however this process ends.
	stdin, err := f.server.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := f.server.StdoutPipe()
	if err != nil {
		return err
	}
	f.command, f.replies = json.NewEncoder(stdin), json.NewDecoder(stdout)
	if err := f.server.Start(); err != nil {
		return err
	}
	f.t.Cleanup(func() {
		stdin.Close()
		err := f.server.Wait()
		if detached := unix.Unmount(f.Dir, unix.MNT_DETACH); detached == nil {
			err = errors.Join(err, errors.New("it was still mounted"))
		}
		if err != nil {
			f.t.Errorf("ending the file system: %v\n%s", err, &f.output)
		}
	})
	var up reply
	if err := f.replies.Decode(&up); err != nil {
		return fmt.Errorf("it does not start: %w", err)
	}
	return up.err()
}

// Set replaces all faults. Operations that hang go on, unless they still are to
// hang.
func (f *FS) Set(faults Faults) {
	f.t.Helper()
	f.ask(command{Faults: &faults})
}

// Hanging returns how many operations hang.
func (f *FS) Hanging() int {
	f.t.Helper()
	return f.ask(command{}).Hanging
}

// DropCaches makes the kernel forget what it knows of the files' contents, so
// that the next look at a mapped file is a read.
func (f *FS) DropCaches() {
	f.t.Helper()
	f.ask(command{DropCaches: true})
}

func (f *FS) ask(c command) (r reply) {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.command.Encode(c)
	if err == nil {
		err = f.replies.Decode(&r)
	}
	if err == nil {
		err = r.err()
	}
	if err != nil {
		f.t.Fatalf("faulty file system: %v", err)
	}
	return r
}

// command is what the server is told, and asked.
type command struct {
	Faults     *Faults
	DropCaches bool
}

// reply is the server's answer to a command, and its first word.
type reply struct {
	Error   string
	Hanging int
}

func (r reply) err() error {
	if r.Error == "" {
		return nil
	}
	return errors.New(r.Error)
}

// serveVariable makes a test's program a server: it holds the directory below and
// the mount point.
const serveVariable = "INSTANTAPI_VERIFY_FAULTFS"

func init() {
	if dirs, ok := os.LookupEnv(serveVariable); ok {
		below, dir, _ := strings.Cut(dirs, string(filepath.ListSeparator))
		os.Exit(serve(below, dir))
	}
}
