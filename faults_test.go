package instantapi

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// What must hold when something breaks: the process, the disk, the files.

// missing ends a test that this machine can't run. In CI nothing may be lacking:
// a test that silently does not run proves nothing.
func missing(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("INSTANTAPI_VERIFY_TEST_ALL") == "1" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// userEnviron is the environment before TestMain gives the tests another home:
// Go's caches are in the user's.
var userEnviron = os.Environ()

// caddyProgram is a built examples/caddy. TestMain removes it with its home.
var caddyProgram = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp(os.Getenv("HOME"), "caddy")
	if err != nil {
		return "", err
	}
	program := filepath.Join(dir, "caddy.exe") // the name that runs everywhere
	build := exec.Command("go", "build", "-buildvcs=false", "-o", program, "./examples/caddy")
	build.Env = userEnviron
	if output, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building examples/caddy: %v\n%s", err, output)
	}
	return program, nil
})

// caddyProcess is a Caddy of its own, which can be killed.
type caddyProcess struct {
	*site
	cmd   *exec.Cmd
	ended chan struct{}
	err   error // how it ended
}

// newProcessSite returns a site for startCaddy, with its store in this directory.
func newProcessSite(t *testing.T, store string) *site {
	t.Helper()
	return &site{t: t, addr: fixedAddr(t), store: store, logs: filepath.Join(t.TempDir(), "log.json")}
}

// fixedAddr is a freeAddr that stays free while nobody listens there. It is below
// the ports that systems give to outgoing connections: a sender that tries to
// reach a dead server on one of these will in the end be connected to itself.
func fixedAddr(t *testing.T) string {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(10_000+rand.IntN(10_000)))
		if err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	t.Fatal("found no free port")
	return ""
}

// startCaddy runs a Caddyfile in a process of its own until the test ends.
func startCaddy(t *testing.T, s *site, caddyfile string) *caddyProcess {
	t.Helper()
	program, err := caddyProgram()
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	config := filepath.Join(home, "Caddyfile")
	caddyfile = strings.Replace(caddyfile, "level DEBUG", "level ERROR", 1) // for speed
	if err := os.WriteFile(config, []byte(caddyfile), 0o600); err != nil {
		t.Fatal(err)
	}
	p := &caddyProcess{site: s, ended: make(chan struct{})}
	p.cmd = exec.Command(program, "run", "--config", config)
	p.cmd.Env = append(os.Environ(), "HOME="+home, "XDG_DATA_HOME="+home, "XDG_CONFIG_HOME="+home)
	output := new(bytes.Buffer)
	p.cmd.Stdout, p.cmd.Stderr = output, output
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		p.err = p.cmd.Wait()
	}()
	t.Cleanup(p.kill)
	eventually(t, "Caddy listens", func() bool {
		select {
		case <-p.ended:
			t.Fatalf("Caddy ended: %v\n%s", p.err, output)
		default:
		}
		conn, err := net.Dial("tcp", s.addr)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return p
}

// kill ends the process as a crash does.
func (p *caddyProcess) kill() {
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// accountant is a backend that counts arrivals by event, and knows which events
// were acknowledged to their senders: these must not arrive any more.
type accountant struct {
	*httptest.Server
	slow time.Duration // how long it takes to answer

	mu           sync.Mutex
	arrived      map[string]int
	acknowledged map[string]bool
	order        []string // the acknowledged ones
	late         []string // arrived after that
}

func newAccountant(t *testing.T, slow time.Duration) *accountant {
	t.Helper()
	a := &accountant{slow: slow, arrived: map[string]int{}, acknowledged: map[string]bool{}}
	a.Server = httptest.NewServer(a)
	t.Cleanup(a.Close)
	return a
}

func (a *accountant) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // not a delivery
	}
	a.mu.Lock()
	a.arrived[string(body)]++
	if a.acknowledged[string(body)] {
		a.late = append(a.late, string(body))
	}
	a.mu.Unlock()
	time.Sleep(a.slow)
	io.WriteString(w, "from the backend")
}

func (a *accountant) routes() string {
	return fmt.Sprintf("instantapi_verify %s\nreverse_proxy %s", testSecret, strings.TrimPrefix(a.URL, "http://"))
}

func (a *accountant) acknowledge(body []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.acknowledged[string(body)] = true
	a.order = append(a.order, string(body))
}

// last returns the last n events that were acknowledged; 0 is all.
func (a *accountant) last(n int) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if n == 0 || n > len(a.order) {
		n = len(a.order)
	}
	return append([]string(nil), a.order[len(a.order)-n:]...)
}

// check holds the books against each other.
func (a *accountant) check(t *testing.T) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.order) == 0 {
		t.Error("nothing was acknowledged, so this proves nothing")
	}
	lost, twice := 0, 0
	for _, body := range a.order {
		if a.arrived[body] == 0 {
			lost++
		}
	}
	for _, n := range a.arrived {
		if n > 1 {
			twice++
		}
	}
	if lost > 0 {
		t.Errorf("%d events were acknowledged and did not arrive", lost)
	}
	if len(a.late) > 0 {
		t.Errorf("%d events arrived after they were acknowledged, the first is %s", len(a.late), a.late[0])
	}
	t.Logf("%d events were acknowledged; %d arrived more than once before they were", len(a.order), twice)
}

// patientSender gives up on an answer that a dead process can't give.
func patientSender(t *testing.T) *http.Client {
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

// wantDuplicates sends events again: each must be answered as a duplicate.
func wantDuplicates(t *testing.T, url string, bodies []string) {
	t.Helper()
	client := patientSender(t)
	var next, wrong atomic.Int64
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(bodies) {
					return
				}
				got, err := doWith(client, signed(url, []byte(bodies[i])))
				if (err != nil || got.status != 200 || got.body != bodyDuplicate) && wrong.Add(1) <= 3 {
					t.Errorf("%s, sent again: got %d %s %v, want a duplicate's answer", bodies[i], got.status, got.body, err)
				}
			}
		})
	}
	wg.Wait()
	if n := wrong.Load(); n > 3 {
		t.Errorf("%d of %d acknowledged events are not answered as duplicates", n, len(bodies))
	}
}

// Whenever the process dies: no acknowledged event is lost, and none arrives
// again. An event whose sender got no answer may arrive twice.
func TestKillNineUnderLoad(t *testing.T) {
	rounds := 6
	if os.Getenv("INSTANTAPI_VERIFY_TEST_LONG") == "1" {
		rounds = 100
	}
	a := newAccountant(t, time.Millisecond)
	s := newProcessSite(t, filepath.Join(t.TempDir(), "store"))
	caddyfile := s.caddyfile(a.routes())
	p := startCaddy(t, s, caddyfile)

	stop := make(chan struct{})
	var senders sync.WaitGroup
	client := patientSender(t)
	for i := range 12 {
		senders.Go(func() {
			for n := 0; ; n++ {
				body := taskEvent(fmt.Sprintf("%d-%d", i, n))
				for acknowledged := false; !acknowledged; {
					select {
					case <-stop:
						return
					default:
					}
					got, err := doWith(client, signed(s.url("/"), body))
					acknowledged = err == nil && got.status/100 == 2
					if err == nil && !acknowledged && got.status != http.StatusServiceUnavailable {
						t.Errorf("got %d %s", got.status, got.body)
					}
					if !acknowledged {
						time.Sleep(10 * time.Millisecond)
					}
				}
				a.acknowledge(body)
			}
		})
	}
	defer senders.Wait()
	stopSenders := sync.OnceFunc(func() { close(stop) })
	defer stopSenders()

	for range rounds {
		time.Sleep(time.Duration(100+rand.IntN(400)) * time.Millisecond)
		p.kill()
		p = startCaddy(t, s, caddyfile)
		// The last ones are those that a crash puts at risk; all have their turn below.
		wantDuplicates(t, s.url("/"), a.last(300))
	}
	stopSenders()
	senders.Wait()
	p.kill()
	startCaddy(t, s, caddyfile)
	wantDuplicates(t, s.url("/"), a.last(0))
	a.check(t)
}

// A request that has reached the backend gets its answer, and is remembered.
func TestShutdownFinishesRequests(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no SIGTERM") // also where all tests must run
	}
	a := newAccountant(t, 200*time.Millisecond)
	s := newProcessSite(t, filepath.Join(t.TempDir(), "store"))
	caddyfile := s.caddyfile(a.routes())
	p := startCaddy(t, s, caddyfile)
	var senders sync.WaitGroup
	for i := range 32 {
		senders.Go(func() {
			time.Sleep(time.Duration(i) * 7 * time.Millisecond) // so that they end at different times
			for n := 0; ; n++ {
				body := taskEvent(fmt.Sprintf("%d-%d", i, n))
				got, err := doWith(sender, signed(s.url("/"), body))
				if err != nil {
					return // no server any more
				}
				got.wantForwarded(t)
				a.acknowledge(body)
			}
		})
	}
	time.Sleep(700 * time.Millisecond)
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	senders.Wait()
	select {
	case <-p.ended:
	case <-time.After(20 * time.Second):
		t.Fatal("Caddy does not end")
	}
	if p.err != nil {
		t.Errorf("Caddy ended with %v, want status 0", p.err)
	}
	a.mu.Lock()
	for body := range a.arrived {
		if !a.acknowledged[body] {
			t.Errorf("%s was delivered, but its sender got no answer", body)
		}
	}
	a.mu.Unlock()
	startCaddy(t, s, caddyfile)
	wantDuplicates(t, s.url("/"), a.last(0))
	a.check(t)
}
