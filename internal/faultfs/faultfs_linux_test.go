package faultfs

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// hangs reports whether do still has not returned after a while. If so, done is
// closed when it returns.
func hangs(do func()) (hanging bool, done <-chan struct{}) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		do()
	}()
	select {
	case <-ended:
		return false, ended
	case <-time.After(200 * time.Millisecond):
		return true, ended
	}
}

func wait(t *testing.T, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("it still hangs")
	}
}

// file makes a file with this content in the directory below.
func (f *FS) file(t *testing.T, name, content string) string {
	t.Helper()
	if err := os.WriteFile(filepath.Join(f.Below, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(f.Dir, name)
}

func TestEachOperationHangsAndGoesOn(t *testing.T) {
	f := Mount(t)
	name := f.file(t, "file", "content")
	opened, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	for op, do := range map[Op]func(){
		Read:    func() { opened.ReadAt(make([]byte, 1), 0) },
		Write:   func() { opened.WriteAt([]byte("C"), 0) },
		Fsync:   func() { opened.Sync() },
		Open:    func() { g, _ := os.Open(name); g.Close() },
		Create:  func() { os.WriteFile(name+"2", nil, 0o600) },
		Remove:  func() { os.Remove(f.file(t, "removed", "")) },
		Rename:  func() { os.Rename(f.file(t, "before", ""), filepath.Join(f.Dir, "after")) },
		Lookup:  func() { os.Stat(name) },
		Getattr: func() { opened.Stat() },
		Setattr: func() { opened.Truncate(5) },
		Readdir: func() { os.ReadDir(f.Dir) },
		Statfs:  func() { unix.Statfs(f.Dir, new(unix.Statfs_t)) },
	} {
		t.Run(string(op), func(t *testing.T) {
			defer f.Set(Faults{})
			f.DropCaches()
			f.Set(Faults{Hang: []Op{op}})
			hanging, done := hangs(do)
			if !hanging {
				t.Fatal("it does not hang")
			}
			if f.Hanging() != 1 {
				t.Errorf("%d operations hang", f.Hanging())
			}
			f.Set(Faults{})
			wait(t, done)
			if f.Hanging() != 0 {
				t.Errorf("%d operations hang in the end", f.Hanging())
			}
		})
	}
}

func TestFaultsAreForTheNamedFilesOnly(t *testing.T) {
	f := Mount(t)
	f.file(t, "a.log", "a")
	f.file(t, "a.table", "a")
	f.Set(Faults{Names: "*.log", Fail: map[Op]syscall.Errno{Read: syscall.EIO, Create: syscall.ENOSPC}})
	if _, err := os.ReadFile(filepath.Join(f.Dir, "a.log")); !errors.Is(err, syscall.EIO) {
		t.Errorf("reading the log says %v", err)
	}
	if got, err := os.ReadFile(filepath.Join(f.Dir, "a.table")); err != nil || string(got) != "a" {
		t.Errorf("reading the table says %q, %v", got, err)
	}
	if err := os.WriteFile(filepath.Join(f.Dir, "b.log"), nil, 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("making a log says %v", err)
	}
	if err := os.WriteFile(filepath.Join(f.Dir, "b.table"), nil, 0o600); err != nil {
		t.Errorf("making a table says %v", err)
	}
}

func TestReadsAreSlow(t *testing.T) {
	f := Mount(t)
	name := f.file(t, "file", strings.Repeat("x", 64<<10))
	f.Set(Faults{ReadRate: 128 << 10})
	start := time.Now()
	if _, err := os.ReadFile(name); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took < 400*time.Millisecond || took > 5*time.Second {
		t.Errorf("64 KiB at 128 KiB/s took %v", took)
	}
}

func TestStatfsSaysWhatItIsTold(t *testing.T) {
	f := Mount(t)
	f.Set(Faults{Space: &Space{BlockSize: 1 << 20, FragmentSize: 4096, Blocks: 1000, Free: 10, Available: -5}})
	var got unix.Statfs_t
	if err := unix.Statfs(f.Dir, &got); err != nil {
		t.Fatal(err)
	}
	if got.Bsize != 1<<20 || got.Frsize != 4096 || got.Blocks != 1000 || got.Bfree != 10 || int64(got.Bavail) != -5 {
		t.Errorf("it says %+v", got)
	}
}

// A store's files are mapped, and written to as memory.
func TestMappedFilesAreShared(t *testing.T) {
	f := Mount(t)
	name := f.file(t, "file", strings.Repeat("x", 4096))
	file, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	mapped, err := unix.Mmap(int(file.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mapped)
	copy(mapped, "written")
	f.Set(Faults{Hang: []Op{Write}})
	hanging, done := hangs(func() { unix.Msync(mapped, unix.MS_SYNC) })
	if !hanging {
		t.Error("a sync does not hang with the writes")
	}
	f.Set(Faults{})
	wait(t, done)
	if got, err := os.ReadFile(filepath.Join(f.Below, "file")); err != nil || !strings.HasPrefix(string(got), "written") {
		t.Errorf("below there is %.10q, %v", got, err)
	}
}

// A page that the kernel has dropped is read again, and the read may hang. This
// test uses a system call, because a page fault would keep a processor of this
// process.
func TestPageFaultsAreReads(t *testing.T) {
	f := Mount(t)
	file, err := os.Open(f.file(t, "file", strings.Repeat("x", 4096)))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	mapped, err := unix.Mmap(int(file.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mapped)
	populate := func() {
		if err := unix.Madvise(mapped, unix.MADV_POPULATE_READ); err != nil {
			t.Error(err)
		}
	}
	populate()
	f.Set(Faults{Hang: []Op{Read}})
	if hanging, _ := hangs(populate); hanging {
		t.Error("a page that is in memory is read")
	}
	f.DropCaches()
	hanging, done := hangs(populate)
	if !hanging {
		t.Error("a page that was dropped is not read")
	}
	f.Set(Faults{})
	wait(t, done)
}

// A test that fails while something hangs leaves nothing mounted, and no process.
func TestNothingIsLeftBehind(t *testing.T) {
	var f *FS
	var cat *exec.Cmd
	t.Run("test", func(t *testing.T) {
		f = Mount(t)
		f.Set(Faults{Hang: All})
		cat = exec.Command("cat", f.file(t, "file", "content"))
		if err := cat.Start(); err != nil {
			t.Fatal(err)
		}
		for f.Hanging() == 0 {
			time.Sleep(10 * time.Millisecond)
		}
		_ = cat.Process.Kill() // which does not help
	})
	_ = cat.Wait()
	if err := f.server.Process.Signal(syscall.Signal(0)); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("the server is still there: %v", err)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), f.Dir) {
		t.Error("it is still mounted")
	}
}

// A hanging operation keeps a killed process or lets it go, as the test says.
func TestKillableHangLetsAProcessGo(t *testing.T) {
	f := Mount(t)
	name := f.file(t, "file", "content")
	for _, killable := range []bool{true, false} {
		f.Set(Faults{Hang: []Op{Open}, Killable: killable})
		cat := exec.Command("cat", name)
		if err := cat.Start(); err != nil {
			t.Fatal(err)
		}
		for f.Hanging() == 0 {
			time.Sleep(time.Millisecond)
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = cat.Wait()
		}()
		_ = cat.Process.Kill()
		stays, _ := hangs(func() { <-ended })
		if stays == killable {
			t.Errorf("killable %t: it stays: %t", killable, stays)
		}
		f.Set(Faults{})
		wait(t, ended)
	}
}

// A signal alone ends no operation.
func TestSignalDoesNotEndAHang(t *testing.T) {
	f := Mount(t)
	name := f.file(t, "file", "content")
	f.Set(Faults{Hang: []Op{Open}, Killable: true})
	sh := exec.Command("sh", "-c", "trap : TERM; cat <"+name)
	if err := sh.Start(); err != nil {
		t.Fatal(err)
	}
	for f.Hanging() == 0 {
		time.Sleep(time.Millisecond)
	}
	_ = sh.Process.Signal(syscall.SIGTERM)
	hanging, done := hangs(func() {
		for f.Hanging() > 0 {
			time.Sleep(time.Millisecond)
		}
	})
	if !hanging {
		t.Error("the operation has ended")
	}
	f.Set(Faults{})
	wait(t, done)
	_ = sh.Wait()
}
