// Package caddytest runs Caddy for tests: in the test's own process, which lets
// the test look inside, or in a process of its own, which can be killed. It
// also provides a backend, a sender, and free ports for all of them.
//
// It knows the product by its public face only: configurations, requests and
// answers. The package whose tests run a [Site] in their own process imports the
// modules that the site's Caddyfile names.
package caddytest

import (
	"context"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// patience is how long a test waits for what must happen, even on a busy
// machine.
const patience = 20 * time.Second

// Hooks do what only the tested package can do around each [Site].
type Hooks struct {
	// BeforeSite undoes what earlier tests may have left in the process.
	BeforeSite func()

	// AfterStop waits until Caddy has let go of the site's files. Caddy has been
	// stopped by then.
	AfterStop func(testing.TB)
}

var hooks Hooks

// home replaces the user's home directory while tests run.
var home string

// userEnviron is the environment before [Main] changes it.
var userEnviron = os.Environ()

// UserEnviron returns the environment of the user who runs the tests, for programs
// that keep their caches in the user's home directory.
func UserEnviron() []string { return append([]string(nil), userEnviron...) }

// Main runs the tests of a package. It is to be called by TestMain, and keeps
// what Caddy writes for itself out of the user's directories.
func Main(m *testing.M, h Hooks) {
	hooks = h
	dir, err := os.MkdirTemp("", "instantapi_verify")
	if err != nil {
		panic(err)
	}
	home = dir
	defer os.RemoveAll(home)
	for _, name := range []string{"XDG_DATA_HOME", "XDG_CONFIG_HOME", "HOME", "AppData"} {
		os.Setenv(name, home)
	}
	caddy.DefaultStorage.Path = caddy.AppDataDir() // it was set before this
	m.Run()
}

// Missing skips a test that needs something that this machine lacks. With
// INSTANTAPI_VERIFY_TEST_ALL=1, as in CI, it fails the test: a test that is
// silently skipped proves nothing.
func Missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("INSTANTAPI_VERIFY_TEST_ALL") == "1" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// Long reports whether INSTANTAPI_VERIFY_TEST_LONG=1 asks for long runs.
func Long() bool { return os.Getenv("INSTANTAPI_VERIFY_TEST_LONG") == "1" }

// LookPath returns the path of a program that the test needs.
func LookPath(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Missing(t, "%v", err)
	}
	return path
}

// Eventually waits until ok, and fails the test if that takes too long.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("gave up waiting: %s", what)
		}
	}
}

// Timeout returns a context that bounds the waiting of a whole test.
func Timeout(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// WantError fails the test unless there is an error with all these texts in it.
func WantError(t testing.TB, err error, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("got error %v, want %q in it", err, text)
		}
	}
}

// WriteFile writes a file that only its owner can read.
func WriteFile(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// ReadFile returns the content of a file.
func ReadFile(t testing.TB, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// Ports are handed out from 10,000 to 31,999, below those that systems use for
// outgoing connections. A port of those could be taken before the program that
// it is meant for listens there, and a program that dials such a port while
// nothing listens may be connected to itself.
const (
	firstPort = 10_000
	lastPort  = 31_999
	blockSize = 500
)

// ports are the ports of this process. Each test process has its own block,
// which it holds by listening on the block's first port, because the tests of
// several packages run at the same time.
var ports struct {
	sync.Mutex
	guard net.Listener // nil: there is no block yet
	block int
	next  int // in the block
}

// FreePort returns a port on which nothing listens, and which no other test
// gets.
func FreePort(t testing.TB) string {
	t.Helper()
	ports.Lock()
	defer ports.Unlock()
	if ports.guard == nil && !holdBlock() {
		t.Fatal("no block of ports is free: too many tests run at once")
	}
	for range blockSize {
		ports.next = ports.next%(blockSize-1) + 1 // the first one is the guard's
		port := strconv.Itoa(ports.block + ports.next)
		if l, err := net.Listen("tcp", ":"+port); err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return ""
}

// holdBlock finds a block that no other process holds.
func holdBlock() bool {
	for block := firstPort; block+blockSize <= lastPort+1; block += blockSize {
		l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(block))
		if err == nil {
			ports.guard, ports.block = l, block
			return true
		}
	}
	return false
}

// FreeAddr returns the address of a [FreePort] on this machine.
func FreeAddr(t testing.TB) string {
	t.Helper()
	return "127.0.0.1:" + FreePort(t)
}

// Port returns the port of an address.
func Port(addr string) string { return addr[strings.LastIndexByte(addr, ':')+1:] }
