package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/shirou/gopsutil/v4/process"
)

const (
	startTimeout = 30 * time.Second
	stopTimeout  = 20 * time.Second
)

// buildCaddy builds the program that is measured.
func buildCaddy(ctx context.Context, dir string) (program string, err error) {
	program = filepath.Join(dir, "caddy.exe") // the name that runs everywhere
	build := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", program, "./caddy")
	if output, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building ./caddy: %w (run this as \"go -C bench run .\")\n%s", err, output)
	}
	return program, nil
}

// server is a Caddy process with one scenario's site.
type server struct {
	scenario scenario
	dir      string // of its own, with its store
	addr     string
	admin    string // of Caddy's own API, with its profiles
	cmd      *exec.Cmd
	ended    chan struct{}
}

// idleUpstream is how many connections to the backend a proxy keeps. Caddy's own
// 32 would make it dial for half of the requests at 64 connections, whoever is in
// front of it.
const idleUpstream = 256

// startServer runs the scenario in front of a backend, with a new store in a new
// directory below parent.
func startServer(program, parent, backend string, s scenario, cores []int, environ ...string) (*server, error) {
	dir, err := os.MkdirTemp(parent, s.name)
	if err != nil {
		return nil, err
	}
	srv := &server{scenario: s, dir: dir, addr: freeAddress(), admin: freeAddress(), ended: make(chan struct{})}
	config := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(config, []byte(srv.caddyfile(backend)), 0o600); err != nil {
		return nil, err
	}
	// A file, because that is what a service's log ends up in.
	log, err := os.Create(srv.logFile())
	if err != nil {
		return nil, err
	}
	defer log.Close()
	srv.cmd = exec.Command(program, "run", "--config", config)
	srv.cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir, "AppData="+dir)
	srv.cmd.Env = append(srv.cmd.Env, environ...)
	srv.cmd.Stdout, srv.cmd.Stderr = log, log
	if err := startOn(cores, srv.cmd); err != nil {
		return nil, fmt.Errorf("starting Caddy for %s: %w", s.name, err)
	}
	go func() {
		defer close(srv.ended)
		_ = srv.cmd.Wait() // whoever asked for the end does not ask how
	}()
	if err := srv.waitUntilListening(); err != nil {
		srv.stop()
		return nil, err
	}
	return srv, nil
}

// caddyfile differs between scenarios in nothing but the routes and sync. No
// access log; the default log at its default level.
func (s *server) caddyfile(backend string) string {
	store := ""
	if s.scenario.sync != "" {
		store = "instantapi_verify {\nstore badger {\npath {store}\nsync " + s.scenario.sync + "\n}\n}\n"
	}
	proxy := "reverse_proxy " + backend + " {\n%s\ntransport http {\nkeepalive_idle_conns_per_host " +
		strconv.Itoa(idleUpstream) + "\n}\n}"
	text := "{\nadmin " + s.admin + "\npersist_config off\nskip_install_trust\nauto_https off\n" + store + "}\n" +
		"http://" + s.addr + " {\n" + s.scenario.routes + "\n}\n"
	return strings.NewReplacer(
		"{proxy}", fmt.Sprintf(proxy, ""),
		"{buffering_proxy}", fmt.Sprintf(proxy, "request_buffers 4MiB"),
		"{secret}", secret,
		"{store}", "`"+filepath.Join(s.dir, "store")+"`",
	).Replace(text)
}

func (s *server) waitUntilListening() error {
	for deadline := time.Now().Add(startTimeout); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if !s.running() {
			return s.explain(errors.New("the server ended"))
		}
		if conn, err := net.Dial("tcp", s.addr); err == nil {
			conn.Close()
			return nil
		}
	}
	return s.explain(errors.New("the server does not listen"))
}

func (s *server) running() bool {
	select {
	case <-s.ended:
		return false
	default:
		return true
	}
}

// explain adds what the server has logged last.
func (s *server) explain(cause error) error {
	log, err := os.ReadFile(s.logFile())
	if err != nil {
		return cause
	}
	lines := strings.Split(strings.TrimSpace(string(log)), "\n")
	return fmt.Errorf("%w; its log ends with\n%s", cause, strings.Join(lines[max(0, len(lines)-5):], "\n"))
}

func (s *server) logFile() string { return filepath.Join(s.dir, "caddy.log") }

// stop ends the server as a service manager does, and removes its directory.
func (s *server) stop() {
	if s.cmd.Process.Signal(os.Interrupt) != nil { // Windows has no such signal
		_ = s.cmd.Process.Kill()
	}
	select {
	case <-s.ended:
	case <-time.After(stopTimeout):
		_ = s.cmd.Process.Kill()
		<-s.ended
	}
	_ = os.RemoveAll(s.dir)
}

// memory returns the resident memory of a process in bytes, now and at its
// highest. Where the system does not tell the highest it is the present one.
func memory(pid int) (now, highest uint64, err error) {
	p, err := process.NewProcess(int32(pid))
	if err != nil {
		return 0, 0, err
	}
	info, err := p.MemoryInfo()
	if err != nil {
		return 0, 0, err
	}
	return info.RSS, max(info.RSS, info.HWM), nil
}

// lastPort is of the last free address; the first one is anywhere, because the
// backend and other runs look for theirs too.
var lastPort atomic.Uint32

func init() { lastPort.Store(rand.Uint32()) }

// freeAddress returns an address that nobody listens on, another one each time.
// It is below the ports that systems give to outgoing connections, of which a
// load makes many.
func freeAddress() string {
	for range 100 {
		port := 10_000 + lastPort.Add(1)%10_000
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	return "127.0.0.1:0" // whoever listens there says what is wrong
}
