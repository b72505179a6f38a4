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
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	psutil "github.com/shirou/gopsutil/v4/process"
)

const (
	startTimeout = 30 * time.Second
	stopTimeout  = 20 * time.Second
)

// buildCaddy builds the measured program.
func buildCaddy(ctx context.Context, dir string) (program string, err error) {
	program = filepath.Join(dir, "caddy.exe") // the name that runs everywhere
	build := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", program, "./caddy")
	if output, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building ./caddy: %w (run this as \"go -C bench run .\")\n%s", err, output)
	}
	return program, nil
}

// server answers a scenario's requests. It has a directory of its own.
type server struct {
	scenario  scenario
	dir       string
	addr      string
	admin     string     // of Caddy's own API, with its profiles and metrics; empty: not a Caddy
	processes []*process // in the order in which they were started
}

// idleUpstream is how many idle connections to the backend a proxy keeps. With
// Caddy's default of 32 it would dial for half of the requests at 64
// connections, in every scenario.
const idleUpstream = 256

// startServer runs the scenario in front of the backend, with a new store in a new
// directory.
func (b *bench) startServer(s scenario, environ ...string) (*server, error) {
	dir, err := os.MkdirTemp(b.work, s.name)
	if err != nil {
		return nil, err
	}
	srv := &server{scenario: s, dir: dir, addr: freeAddress()}
	start := b.startCaddy
	if s.peer {
		start = b.startPeer
	}
	if err = start(srv, environ); err == nil {
		err = srv.waitUntilListening()
	}
	if err != nil {
		err = srv.explain(fmt.Errorf("starting %s: %w", s.name, err))
		srv.stop()
		return nil, err
	}
	return srv, nil
}

// startCaddy starts the Caddy that was built.
func (b *bench) startCaddy(srv *server, environ []string) error {
	srv.admin = freeAddress()
	config := filepath.Join(srv.dir, "Caddyfile")
	if err := os.WriteFile(config, []byte(srv.caddyfile(b.backend.addr)), 0o600); err != nil {
		return err
	}
	cmd := exec.Command(b.program, "run", "--config", config)
	cmd.Env = append(os.Environ(), "HOME="+srv.dir, "XDG_DATA_HOME="+srv.dir, "XDG_CONFIG_HOME="+srv.dir, "AppData="+srv.dir)
	if b.gomaxprocs > 0 {
		cmd.Env = append(cmd.Env, "GOMAXPROCS="+strconv.Itoa(b.gomaxprocs))
	}
	cmd.Env = append(cmd.Env, environ...)
	return srv.start(cmd, b.serverCores)
}

// start starts a process of the server on these cores. Its log goes to a file,
// because that is what a service's log ends up in.
func (s *server) start(cmd *exec.Cmd, cores []int) error {
	log, err := os.OpenFile(s.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	p := &process{cmd: cmd, ended: make(chan struct{})}
	if err := startOn(cores, cmd); err != nil {
		return err
	}
	go func() {
		defer close(p.ended)
		_ = cmd.Wait() // how it ended does not matter
	}()
	s.processes = append(s.processes, p)
	return nil
}

// caddyfile differs between scenarios only in the routes and sync. There is no
// access log, and the default log has its default level.
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
			return errors.New("the server ended")
		}
		if conn, err := net.Dial("tcp", s.addr); err == nil {
			conn.Close()
			return nil
		}
	}
	return errors.New("the server does not listen")
}

func (s *server) running() bool {
	return !slices.ContainsFunc(s.processes, func(p *process) bool { return !p.running() })
}

// pids returns the server's processes and their descendants.
func (s *server) pids() (all []int, err error) {
	for _, p := range s.processes {
		own, err := psutil.NewProcess(int32(p.cmd.Process.Pid))
		if err != nil {
			return nil, err
		}
		all = append(all, int(own.Pid))
		children, err := own.Children()
		if err != nil {
			return nil, err
		}
		for _, child := range children {
			all = append(all, int(child.Pid))
		}
	}
	return all, nil
}

// memory returns the resident memory of the server in bytes, now and at its
// highest. Memory that several processes share counts for each of them.
func (s *server) memory() (now, highest uint64, err error) {
	pids, err := s.pids()
	if err != nil {
		return 0, 0, err
	}
	for _, pid := range pids {
		current, peak, err := memory(pid)
		if err != nil {
			return 0, 0, err
		}
		now, highest = now+current, highest+peak
	}
	return now, highest, nil
}

// explain adds the last lines of the server's log.
func (s *server) explain(cause error) error {
	log, err := os.ReadFile(s.logFile())
	if err != nil {
		return cause
	}
	lines := strings.Split(strings.TrimSpace(string(log)), "\n")
	return fmt.Errorf("%w; its log ends with\n%s", cause, strings.Join(lines[max(0, len(lines)-5):], "\n"))
}

func (s *server) logFile() string { return filepath.Join(s.dir, "server.log") }

// stop ends the server as a service manager does, and removes its directory.
func (s *server) stop() {
	for _, p := range slices.Backward(s.processes) {
		p.stop()
	}
	_ = os.RemoveAll(s.dir)
}

// process is one of a server's processes.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{}
}

func (p *process) running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

func (p *process) stop() {
	if p.cmd.Process.Signal(os.Interrupt) != nil { // Windows has no such signal
		_ = p.cmd.Process.Kill()
	}
	select {
	case <-p.ended:
	case <-time.After(stopTimeout):
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
}

// memory returns the resident memory of a process in bytes, now and at its
// highest. If the system does not say the highest, it is the present one.
func memory(pid int) (now, highest uint64, err error) {
	p, err := psutil.NewProcess(int32(pid))
	if err != nil {
		return 0, 0, err
	}
	info, err := p.MemoryInfo()
	if err != nil {
		return 0, 0, err
	}
	return info.RSS, max(info.RSS, info.HWM), nil
}

// lastPort is the port of the last free address. The first one is random,
// because the backend and other runs look for ports too.
var lastPort atomic.Uint32

func init() { lastPort.Store(rand.Uint32()) }

// freeAddress returns an address on which nothing listens, a different one each
// time. Its port is below those that systems use for outgoing connections, of
// which a load makes many.
func freeAddress() string {
	for range 100 {
		port := 10_000 + lastPort.Add(1)%10_000
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	return "127.0.0.1:0" // listening there reports what is wrong
}
