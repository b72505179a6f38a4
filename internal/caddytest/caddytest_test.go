package caddytest

import (
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestMain(m *testing.M) { Main(m, Hooks{}) }

// The ports differ, are free, and are not those of outgoing connections.
func TestFreePortsAreFree(t *testing.T) {
	seen := map[string]bool{}
	for range 50 {
		addr := FreeAddr(t)
		if seen[addr] {
			t.Errorf("%s is given twice", addr)
		}
		seen[addr] = true
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if port := l.Addr().(*net.TCPAddr).Port; port < firstPort || port > lastPort {
			t.Errorf("port %d is out of range", port)
		}
	}
}

// Another process has other ports.
func TestProcessesDoNotShareABlockOfPorts(t *testing.T) {
	FreePort(t) // for a block
	if taken := os.Getenv("CADDYTEST_BLOCK"); taken != "" {
		if taken == strconv.Itoa(ports.block) {
			t.Errorf("both processes have the block %s", taken)
		}
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), "CADDYTEST_BLOCK="+strconv.Itoa(ports.block))
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, output)
	}
}

// A site runs here or in a process of its own, with whatever a Caddyfile can say.
func TestSiteServes(t *testing.T) {
	s := New(t)
	s.NoApp = true
	backend := NewBackend(t, nil)
	routes := "handle /hijack {\ntest hijack\n}\nhandle {\nreverse_proxy " + backend.Addr() + "\n}"
	s.MustLoad(routes)
	s.Send(t, "1").WantForwarded(t)
	Do(t, Signed(s.URL("/hijack"), nil)).Want(t, 200, "hijacked")
	s.MustLoad(`respond "loaded again"`)
	s.Send(t, "2").Want(t, 200, "loaded again")
	s.Stop()
	if _, err := DoWith(Sender, Signed(s.URL("/"), nil)); err == nil {
		t.Error("it answers after its end")
	}
	backend.WantBodies(t, string(Event("1")))
	if log := s.Logged(); !strings.Contains(log, `"level":"info"`) {
		t.Errorf("it logged %q", log)
	}
}

func TestProcessServesUntilItsEnd(t *testing.T) {
	s := New(t)
	s.NoApp = true
	for _, end := range []func(*Process){
		func(p *Process) { p.Kill() },
		func(p *Process) {
			if runtime.GOOS == "windows" { // where a process can't be sent signals
				p.Kill()
				return
			}
			p.Signal(t, syscall.SIGTERM)
			if err := p.Wait(t); err != nil {
				t.Errorf("it ended with %v", err)
			}
		},
		func(p *Process) { p.Stop(t) },
	} {
		p := s.Start(t, s.Caddyfile("respond hello"))
		s.Send(t, "1").Want(t, 200, "hello")
		end(p)
		if _, err := DoWith(Sender, Signed(s.URL("/"), nil)); err == nil {
			t.Error("it answers after its end")
		}
	}
}

func TestFinishReadsACommand(t *testing.T) {
	Finish(t, Command(t, "list-modules"), nil).Want(t, 0, "http.handlers.instantapi_verify")
	wrong := Finish(t, Command(t, "no-such-command"), nil)
	if wrong.Status != 1 || !strings.Contains(wrong.Stderr, "no-such-command") {
		t.Errorf("got %+v", wrong)
	}
	begun := time.Now()
	Eventually(t, "a while passes", func() bool { return time.Since(begun) > 20*time.Millisecond })
}

// A request is sent again where its connection breaks.
func TestBrokenConnectionIsTriedAgain(t *testing.T) {
	for name, request := range map[string]func(url string) *http.Request{
		"with a body": func(url string) *http.Request { return Signed(url, Event("1")) },
		"without": func(url string) *http.Request {
			r, err := http.NewRequest(http.MethodGet, url, nil)
			if err != nil {
				t.Fatal(err)
			}
			return r
		},
	} {
		t.Run(name, func(t *testing.T) {
			broken := 0
			backend := NewBackend(t, func(w http.ResponseWriter, _ *http.Request) {
				if broken++; broken <= 2 {
					panic(http.ErrAbortHandler)
				}
				io.WriteString(w, FromBackend)
			})
			Do(t, request(backend.URL)).WantForwarded(t)
			backend.WantDeliveries(t, 3)
		})
	}
}
