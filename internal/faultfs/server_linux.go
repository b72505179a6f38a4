//go:build !386 && !arm && !mips && !mipsle

package faultfs

import (
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// serve mounts the file system and serves it until its commands end. It returns
// the process's exit status.
func serve(below, dir string) int {
	signal.Ignore(os.Interrupt) // the whole process group gets it, but only the test's end counts
	replies := json.NewEncoder(os.Stdout)
	s, err := mount(below, dir)
	if err != nil {
		_ = replies.Encode(reply{Error: err.Error()})
		return 1
	}
	_ = replies.Encode(reply{})
	commands := json.NewDecoder(os.Stdin)
	for {
		var c command
		if err := commands.Decode(&c); err != nil {
			break
		}
		_ = replies.Encode(s.obey(c))
	}
	s.set(Faults{}) // releases operations that would keep the file system busy
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
		fmt.Fprintf(os.Stderr, "unmounting: %v\n", err)
		return 1
	}
	return 0
}

func mount(below, dir string) (*server, error) {
	root, err := fs.NewLoopbackRoot(below)
	if err != nil {
		return nil, err
	}
	never := time.Duration(0)
	options := &fs.Options{
		// The kernel caches only contents, so every lookup reaches this server.
		EntryTimeout: &never, AttrTimeout: &never, NegativeTimeout: &never,
		MountOptions: fuse.MountOptions{
			FsName: below, Name: "faultfs",
			DirectMountStrict: true, AllowOther: true,
			// Writing back a mapped file must not make the kernel drop the
			// file's contents.
			ExplicitDataCacheControl: true,
			MaxBackground:            256,                  // that hang, before others do with them
			DisabledCapabilities:     fuse.CAP_PASSTHROUGH, // which bypasses this server
			DisableReadDirPlus:       true,
		},
	}
	s := &server{RawFileSystem: fs.NewNodeFS(root, options), names: make(map[uint64]string)}
	s.set(Faults{})
	s.fuse, err = fuse.NewServer(s, dir, &options.MountOptions)
	if err != nil {
		return nil, err
	}
	go s.fuse.Serve()
	return s, s.fuse.WaitMount()
}

// server adds faults to a file system without any.
type server struct {
	fuse.RawFileSystem
	fuse    *fuse.Server
	state   atomic.Pointer[state]
	hanging atomic.Int64

	mu    sync.Mutex
	names map[uint64]string // of the nodes; only the last element
	ready time.Time         // when the reads so far have passed, at the rate
}

type state struct {
	Faults
	replaced chan struct{} // closed when another state is in force
}

func (s *server) obey(c command) (r reply) {
	if c.Faults != nil {
		s.set(*c.Faults)
	}
	if c.DropCaches {
		r.Error = s.dropCaches()
	}
	r.Hanging = int(s.hanging.Load())
	return r
}

func (s *server) set(faults Faults) {
	next := &state{faults, make(chan struct{})}
	if before := s.state.Swap(next); before != nil {
		close(before.replaced)
	}
	if len(faults.Hang) > 0 {
		time.AfterFunc(hangLimit, func() {
			if s.state.Load() == next {
				s.set(Faults{})
			}
		})
	}
}

func (s *server) dropCaches() string {
	s.mu.Lock()
	nodes := make([]uint64, 0, len(s.names))
	for node := range s.names {
		nodes = append(nodes, node)
	}
	s.mu.Unlock()
	for _, node := range nodes {
		if status := s.fuse.InodeNotify(node, 0, 0); !status.Ok() && status != fuse.ENOENT {
			return fmt.Sprintf("dropping the cache of node %d: %v", node, status)
		}
	}
	return ""
}

// by says which process asked for an operation.
type by struct {
	interrupted <-chan struct{} // by any signal
	thread      uint32
}

// gate returns when the operation may begin, or the error that it fails with.
func (s *server) gate(op Op, name string, caller by) fuse.Status {
	for {
		state := s.state.Load()
		if !state.affects(name) {
			return fuse.OK
		}
		if slices.Contains(state.Hang, op) {
			s.hanging.Add(1)
			killed := state.hang(caller)
			s.hanging.Add(-1)
			if killed {
				return fuse.EINTR
			}
			continue
		}
		return fuse.Status(state.Fail[op])
	}
}

// hang returns once another state is in force, or the caller has been killed
// and may leave.
func (s *state) hang(caller by) (killed bool) {
	if !s.Killable {
		caller.interrupted = nil
	}
	select {
	case <-s.replaced:
		return false
	case <-caller.interrupted:
	}
	for !hasBeenKilled(caller.thread) {
		select {
		case <-s.replaced:
			return false
		case <-time.After(10 * time.Millisecond):
		}
	}
	return true
}

// hasBeenKilled reports whether a thread has yet to take a SIGKILL, which is also
// what ends the others when one thread ends its process.
func hasBeenKilled(thread uint32) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", thread))
	if err != nil {
		return true // it is gone
	}
	for line := range strings.Lines(string(status)) {
		name, mask, _ := strings.Cut(strings.TrimSpace(line), ":\t")
		if name != "SigPnd" && name != "ShdPnd" {
			continue
		}
		pending, err := strconv.ParseUint(mask, 16, 64)
		if err == nil && pending&(1<<(unix.SIGKILL-1)) != 0 {
			return true
		}
	}
	return false
}

func (s *state) affects(name string) bool {
	if s.Names == "" {
		return true
	}
	matched, err := path.Match(s.Names, name)
	return matched && err == nil
}

// gateNode is gate for a file known by its number.
func (s *server) gateNode(op Op, node uint64, caller by) fuse.Status {
	s.mu.Lock()
	name := s.names[node]
	s.mu.Unlock()
	return s.gate(op, name, caller)
}

func (s *server) learn(node uint64, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names[node] = name
}

// throttle waits until this many bytes may have been read.
func (s *server) throttle(size int) {
	state := s.state.Load()
	if state.ReadRate == 0 {
		return
	}
	s.mu.Lock()
	if now := time.Now(); s.ready.Before(now) {
		s.ready = now
	}
	s.ready = s.ready.Add(time.Duration(size) * time.Second / time.Duration(state.ReadRate))
	wait := time.Until(s.ready)
	s.mu.Unlock()
	select {
	case <-time.After(wait):
	case <-state.replaced:
	}
}

func (s *server) StatFs(cancel <-chan struct{}, in *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	if status := s.gate(Statfs, "", by{cancel, in.Pid}); !status.Ok() {
		return status
	}
	status := s.RawFileSystem.StatFs(cancel, in, out)
	if space := s.state.Load().Space; space != nil {
		out.Bsize, out.Frsize = space.BlockSize, space.FragmentSize
		out.Blocks, out.Bfree, out.Bavail = space.Blocks, space.Free, uint64(space.Available)
	}
	return status
}

func (s *server) Lookup(cancel <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if status := s.gate(Lookup, name, by{cancel, in.Pid}); !status.Ok() {
		return status
	}
	status := s.RawFileSystem.Lookup(cancel, in, name, out)
	if status.Ok() {
		s.learn(out.NodeId, name)
	}
	return status
}

func (s *server) Create(cancel <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	if status := s.gate(Create, name, by{cancel, in.Pid}); !status.Ok() {
		return status
	}
	status := s.RawFileSystem.Create(cancel, in, name, out)
	if status.Ok() {
		s.learn(out.NodeId, name)
	}
	out.OpenFlags |= fuse.FOPEN_KEEP_CACHE
	return status
}

func (s *server) Mkdir(cancel <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	if status := s.gate(Create, name, by{cancel, in.Pid}); !status.Ok() {
		return status
	}
	return s.RawFileSystem.Mkdir(cancel, in, name, out)
}

func (s *server) Unlink(cancel <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	if status := s.gate(Remove, name, by{cancel, in.Pid}); !status.Ok() {
		return status
	}
	return s.RawFileSystem.Unlink(cancel, in, name)
}

func (s *server) Rmdir(cancel <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	if status := s.gate(Remove, name, by{cancel, in.Pid}); !status.Ok() {
		return status
	}
	return s.RawFileSystem.Rmdir(cancel, in, name)
}

func (s *server) Rename(cancel <-chan struct{}, in *fuse.RenameIn, before, after string) fuse.Status {
	if status := s.gate(Rename, before, by{cancel, in.Pid}); !status.Ok() {
		return status
	}
	return s.RawFileSystem.Rename(cancel, in, before, after)
}

func (s *server) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	if status := s.gateNode(Getattr, in.NodeId, by{cancel, in.Pid}); !status.Ok() {
		return status
	}
	return s.RawFileSystem.GetAttr(cancel, in, out)
}

func (s *server) SetAttr(cancel <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	if status := s.gateNode(Setattr, in.NodeId, by{cancel, in.Pid}); !status.Ok() {
		return status
	}
	return s.RawFileSystem.SetAttr(cancel, in, out)
}

func (s *server) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if status := s.gateNode(Open, in.NodeId, by{cancel, in.Pid}); !status.Ok() {
		return status
	}
	status := s.RawFileSystem.Open(cancel, in, out)
	out.OpenFlags |= fuse.FOPEN_KEEP_CACHE // as a disk's contents are kept
	return status
}

func (s *server) OpenDir(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if status := s.gateNode(Open, in.NodeId, by{cancel, in.Pid}); !status.Ok() {
		return status
	}
	return s.RawFileSystem.OpenDir(cancel, in, out)
}

func (s *server) ReadDir(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	if status := s.gateNode(Readdir, in.NodeId, by{cancel, in.Pid}); !status.Ok() {
		return status
	}
	return s.RawFileSystem.ReadDir(cancel, in, out)
}

func (s *server) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	if status := s.gateNode(Read, in.NodeId, by{cancel, in.Pid}); !status.Ok() {
		return nil, status
	}
	s.throttle(len(buf))
	return s.RawFileSystem.Read(cancel, in, buf)
}

func (s *server) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	if status := s.gateNode(Write, in.NodeId, by{cancel, in.Pid}); !status.Ok() {
		return 0, status
	}
	return s.RawFileSystem.Write(cancel, in, data)
}

func (s *server) Writev(cancel <-chan struct{}, in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	if status := s.gateNode(Write, in.NodeId, by{cancel, in.Pid}); !status.Ok() {
		return 0, status
	}
	return s.RawFileSystem.Writev(cancel, in, data)
}

func (s *server) Fallocate(cancel <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	if status := s.gateNode(Write, in.NodeId, by{cancel, in.Pid}); !status.Ok() {
		return status
	}
	return s.RawFileSystem.Fallocate(cancel, in)
}

func (s *server) Fsync(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	if status := s.gateNode(Fsync, in.NodeId, by{cancel, in.Pid}); !status.Ok() {
		return status
	}
	return s.RawFileSystem.Fsync(cancel, in)
}

func (s *server) FsyncDir(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	if status := s.gateNode(Fsync, in.NodeId, by{cancel, in.Pid}); !status.Ok() {
		return status
	}
	return s.RawFileSystem.FsyncDir(cancel, in)
}
