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
	Write   Op = "write"  // also the kernel's writing back of a mapped file
	Fsync   Op = "fsync"  // of files and of directories, also msync
	Open    Op = "open"   // of files and of directories
	Create  Op = "create" // of files and of directories
	Remove  Op = "remove" // of files and of directories
	Rename  Op = "rename"
	Lookup  Op = "lookup"  // of a name, and so nearly everything with a path
	Getattr Op = "getattr" // also what reads a size
	Setattr Op = "setattr" // also truncate
	Readdir Op = "readdir"
	Statfs  Op = "statfs"
)

// All are all operations. If they all hang, it is as if the disk were gone.
var All = []Op{Read, Write, Fsync, Open, Create, Remove, Rename, Lookup, Getattr, Setattr, Readdir, Statfs}

// Faults say what goes wrong. The zero value is a file system without faults.
type Faults struct {
	// Hang lists the operations that don't return. Like those of a hung disk
	// they can't be interrupted, not even by a kill.
	Hang []Op

	// Killable lets a process that is killed, or ends by itself, leave a
	// hanging operation, as NFS does. Default: the process stays until the
	// fault ends.
	Killable bool

	// Fail maps operations to the errors that they fail with.
	Fail map[Op]syscall.Errno

	// Names is a pattern for [path.Match]: only files with such names are
	// affected by Hang and Fail. Default: all files, and [Statfs] too.
	Names string

	// ReadRate limits reads, in bytes per second. Default: no limit.
	ReadRate int

	// Space is what statfs says. Default: what the file system below says.
	Space *Space
}

// Space is the part of statfs's answer about free space.
type Space struct {
	BlockSize    uint32 // for reads and writes
	FragmentSize uint32 // which the others are counted in
	Blocks, Free uint64
	Available    int64 // to an unprivileged user; negative on some systems
}

// hangLimit is how long a hang lasts at most, so that a failing test leaves
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

// Mount mounts a file system until the test ends. A test that starts processes
// on it must end the faults, with [FS.Set], before it waits for them to end.
//
// A separate process serves the file system: a goroutine that waits for a page
// of a mapped file keeps its processor, so in the same process no processor
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

// missing skips a test that this machine can't run, or fails it if all tests
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
	// Its end tells the server to exit, however this process ends.
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

// Set replaces all faults. Hanging operations go on, unless they still have to
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

// DropCaches makes the kernel drop the cached contents of the files, so that
// the next access to a mapped file is a read.
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

// command is a command to the server.
type command struct {
	Faults     *Faults
	DropCaches bool
}

// reply is the server's answer to a command. The server also sends one when it
// is ready.
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

// serveVariable makes a test's program a server. Its value holds the directory
// below and the mount point.
const serveVariable = "INSTANTAPI_VERIFY_FAULTFS"

func init() {
	if dirs, ok := os.LookupEnv(serveVariable); ok {
		below, dir, _ := strings.Cut(dirs, string(filepath.ListSeparator))
		os.Exit(serve(below, dir))
	}
}
