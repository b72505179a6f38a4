package caddytest

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Program returns the path of examples/caddy, built once for a package's tests.
func Program(t testing.TB) string {
	t.Helper()
	program, err := program()
	if err != nil {
		t.Fatal(err)
	}
	return program
}

var program = sync.OnceValues(func() (string, error) {
	if home == "" {
		return "", errors.New("TestMain must call caddytest.Main")
	}
	path := filepath.Join(home, "caddy.exe") // the name that runs everywhere
	// Without -buildvcs=false this would need git, and a checkout of the same
	// user.
	build := exec.Command("go", "build", "-buildvcs=false", "-o", path, "github.com/instantapi/caddy-instantapi-verify/examples/caddy")
	build.Env = userEnviron
	if output, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building examples/caddy: %v\n%s", err, output)
	}
	return path, nil
})

// Command returns a command of Caddy, with its own directories and admin
// endpoint, because this machine may be running another Caddy.
func Command(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command(Program(t), args...)
	cmd.Env = append(os.Environ(),
		"HOME="+dir,
		"XDG_DATA_HOME="+filepath.Join(dir, "data"),
		"XDG_CONFIG_HOME="+filepath.Join(dir, "config"),
		"CADDY_ADMIN="+FreeAddr(t),
	)
	return cmd
}

// Process is a program that runs until the test ends, unless it ends earlier.
type Process struct {
	cmd   *exec.Cmd
	ended chan struct{}
	err   error // how it ended

	output Output
}

// Output is what a program has written so far. It is safe for concurrent use.
type Output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements io.Writer.
func (o *Output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(b)
}

// String implements fmt.Stringer.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// Start starts a program. [Process.Output] returns what it writes, which is
// also shown if the test fails.
func Start(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	p := &Process{cmd: cmd, ended: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &p.output, &p.output
	cmd.WaitDelay = patience // for children that hold its output open
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		p.err = cmd.Wait()
	}()
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("%s wrote:\n%s", p.name(), p.Output())
		}
	})
	return p
}

// Start runs a Caddyfile in a process of its own, and waits until it serves.
// The site may be started again when the process has ended.
func (s *Site) Start(t testing.TB, caddyfile string) *Process {
	t.Helper()
	config := filepath.Join(t.TempDir(), "Caddyfile")
	WriteFile(t, config, caddyfile)
	p := Start(t, Command(t, "run", "--config", config))
	p.waitUntil(t, "listens on "+s.Addr, func() bool {
		conn, err := net.Dial("tcp", s.Addr)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	if s.Admin != "off" {
		// The apps start in any order. This question is answered after the last one.
		if _, err := DoWith(Sender, Unsigned(http.MethodGet, "http://"+s.Admin+"/config/", nil)); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// Reload makes the process that runs the site run another Caddyfile, as `caddy
// reload` does. The site needs an admin endpoint.
func (s *Site) Reload(t testing.TB, caddyfile string) {
	t.Helper()
	r := Unsigned(http.MethodPost, "http://"+s.Admin+"/load", []byte(caddyfile))
	r.Header.Set("Content-Type", "text/caddyfile")
	got, err := DoWith(&http.Client{Timeout: 2 * patience}, r)
	if err != nil {
		t.Fatal(err)
	}
	if got.Status != http.StatusOK {
		t.Fatalf("reloading: %d %s", got.Status, got.Body)
	}
}

func (p *Process) name() string { return filepath.Base(p.cmd.Path) }

// Output returns what the program has written so far, to either of its outputs.
func (p *Process) Output() string { return p.output.String() }

// WaitFor waits until the program has written a text.
func (p *Process) WaitFor(t testing.TB, text string) {
	t.Helper()
	p.waitUntil(t, fmt.Sprintf("has written %q", text), func() bool { return strings.Contains(p.Output(), text) })
}

func (p *Process) waitUntil(t testing.TB, what string, ok func() bool) {
	t.Helper()
	Eventually(t, p.name()+" "+what, func() bool {
		select {
		case <-p.ended:
			if !ok() { // it may have happened at last
				t.Fatalf("%s ended (%v) before it %s", p.name(), p.err, what)
			}
		default:
		}
		return ok()
	})
}

// Kill ends the program as a crash does.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.ended
}

// Signal sends a signal, which Windows can't.
func (p *Process) Signal(t testing.TB, sig os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// Ended reports whether the program has ended.
func (p *Process) Ended() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// Wait waits for the program's end, and returns how it ended.
func (p *Process) Wait(t testing.TB) error {
	t.Helper()
	select {
	case <-p.ended:
		return p.err
	case <-time.After(patience):
		t.Fatalf("%s does not end", p.name())
		return nil
	}
}

// Stop asks the program to end, and waits for it. It returns false on Windows,
// where a program can't be asked and is killed.
func (p *Process) Stop(t testing.TB) (asked bool) {
	t.Helper()
	if p.cmd.Process.Signal(os.Interrupt) != nil {
		p.Kill()
		return false
	}
	_ = p.Wait(t) // some call an interrupt a failure
	return true
}

// Result is the result of a command.
type Result struct {
	Status         int
	Stdout, Stderr string
}

// Finish starts a command, calls meanwhile if that is not nil, and waits for the
// command's end. No command may print [Secret].
func Finish(t testing.TB, cmd *exec.Cmd, meanwhile func()) Result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	if meanwhile != nil {
		meanwhile()
	}
	err := cmd.Wait()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok || !kill.Stop() {
		t.Fatalf("%s did not end by itself: %v\n%s%s", cmd, err, &stdout, &stderr)
	}
	got := Result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
	if strings.Contains(got.Stdout+got.Stderr, Secret) {
		t.Errorf("the secret is in the output:\n%s%s", got.Stdout, got.Stderr)
	}
	return got
}

// Want fails the test unless the command has ended with this status and has
// printed these texts, in this order, to its standard output.
func (r Result) Want(t testing.TB, status int, printed ...string) {
	t.Helper()
	wrong := r.Status != status
	rest := r.Stdout
	for _, text := range printed {
		_, after, found := strings.Cut(rest, text)
		if !found {
			t.Errorf("it should print %q after what comes before", text)
			wrong = true
		}
		rest = after
	}
	if wrong {
		t.Errorf("exit status %d, want %d; it printed:\n%s\nand to standard error:\n%s", r.Status, status, r.Stdout, r.Stderr)
	}
}
