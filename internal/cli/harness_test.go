package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const testSecret = "whsec_test"

// userEnviron is the environment before TestMain gives the tests another home:
// Go's caches are in the user's.
var userEnviron = os.Environ()

// TestMain keeps what Caddy writes for itself out of the user's folders.
func TestMain(m *testing.M) {
	home, err := os.MkdirTemp("", "instantapi_verify")
	if err != nil {
		panic(err)
	}
	for _, name := range []string{"XDG_DATA_HOME", "XDG_CONFIG_HOME", "HOME", "AppData"} {
		os.Setenv(name, home)
	}
	code := m.Run()
	os.RemoveAll(home)
	os.Exit(code)
}

// caddyProgram is a built examples/caddy. TestMain removes it with its home.
var caddyProgram = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp(os.Getenv("HOME"), "caddy")
	if err != nil {
		return "", err
	}
	program := filepath.Join(dir, "caddy.exe") // the name that runs everywhere
	build := exec.Command("go", "build", "-buildvcs=false", "-o", program, "../../examples/caddy")
	build.Env = userEnviron
	if output, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building examples/caddy: %v\n%s", err, output)
	}
	return program, nil
})

// commandResult is what a run of `caddy instantapi` has left.
type commandResult struct {
	status         int
	stdout, stderr string
}

// instantapiCommand prepares `caddy instantapi`, with the test's secret in an
// environment variable.
func instantapiCommand(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	program, err := caddyProgram()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, program, append([]string{"instantapi"}, args...)...)
	cmd.Env = append(os.Environ(), "TEST_SECRET="+testSecret, "EMPTY_SECRET=")
	return cmd
}

// runCommand runs `caddy instantapi` to its end. No run may print the secret.
func runCommand(t *testing.T, stdin string, args ...string) commandResult {
	t.Helper()
	cmd := instantapiCommand(t, args...)
	cmd.Stdin = strings.NewReader(stdin)
	return finish(t, cmd, func() {})
}

// finish starts a command, calls meanwhile, and waits for the command's end.
func finish(t *testing.T, cmd *exec.Cmd, meanwhile func()) commandResult {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	meanwhile()
	if _, ok := errors.AsType[*exec.ExitError](cmd.Wait()); !ok && !cmd.ProcessState.Success() {
		t.Fatalf("%s did not end by itself", cmd)
	}
	got := commandResult{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
	if strings.Contains(got.stdout+got.stderr, testSecret) {
		t.Errorf("the secret is in the output:\n%s%s", got.stdout, got.stderr)
	}
	return got
}

// want checks a run's exit status and what it has printed, in this order, on
// standard output.
func (got commandResult) want(t *testing.T, status int, printed ...string) {
	t.Helper()
	rest := got.stdout
	for _, text := range printed {
		_, after, found := strings.Cut(rest, text)
		if !found {
			t.Errorf("it should print %q after what comes before", text)
		}
		rest = after
	}
	if got.status != status || t.Failed() {
		t.Errorf("exit status %d, want %d; it printed:\n%s\nand to standard error:\n%s", got.status, status, got.stdout, got.stderr)
	}
}

// runCaddy runs a Caddyfile in a process of its own until the test ends. It may
// be asked things once somebody listens at the address.
func runCaddy(t *testing.T, address, caddyfile string) {
	t.Helper()
	program, err := caddyProgram()
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	config := filepath.Join(home, "Caddyfile")
	if err := os.WriteFile(config, []byte(caddyfile), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "run", "--config", config)
	cmd.Env = append(os.Environ(), "HOME="+home, "XDG_DATA_HOME="+home, "XDG_CONFIG_HOME="+home)
	out := new(output)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
	})
	eventually(t, "Caddy listens", func() bool {
		select {
		case <-ended:
			t.Fatalf("Caddy ended:\n%s", out)
		default:
		}
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// site is the address of a Caddy that guards an endpoint.
type site struct {
	address string
	admin   string
}

// runSite runs a Caddy with these routes.
func runSite(t *testing.T, routes string) site {
	t.Helper()
	s := site{fixedAddr(t), fixedAddr(t)}
	runCaddy(t, s.address, fmt.Sprintf("{\n\tadmin %s\n\tpersist_config off\n}\nhttp://%s {\n%s\n}\n", s.admin, s.address, routes))
	return s
}

func (s site) url(path string) string { return "http://" + s.address + path }

// guarded runs a Caddy with a guard in front of a backend, and returns the
// endpoint's URL.
func guarded(t *testing.T, b *backend) (url string) {
	t.Helper()
	return runSite(t, `
		@guarded not path /open
		instantapi_verify @guarded `+testSecret+`
		reverse_proxy `+b.addr()).url("/webhooks/instantapi")
}

// missing ends a test that this machine can't run. In CI nothing may be lacking:
// a test that silently does not run proves nothing.
func missing(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("INSTANTAPI_VERIFY_TEST_ALL") == "1" {
		t.Fatal(why)
	}
	t.Skip(why)
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("gave up waiting: %s", what)
		}
	}
}

// fixedAddr is an address that stays free while nobody listens there. It is below
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

// backend is the user's: it remembers what it got and answers 200, or what
// answer says.
type backend struct {
	*httptest.Server
	mu     sync.Mutex
	got    []delivery
	answer http.HandlerFunc // after the body has been read; may be nil
}

// delivery is a request that reached the backend.
type delivery struct {
	*http.Request
	body []byte
}

func newBackend(t *testing.T, answer http.HandlerFunc) *backend {
	t.Helper()
	b := &backend{answer: answer}
	b.Server = httptest.NewServer(b)
	t.Cleanup(b.Close)
	return b
}

func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // not a delivery
	}
	b.mu.Lock()
	b.got = append(b.got, delivery{r, body})
	b.mu.Unlock()
	if b.answer != nil {
		b.answer(w, r)
		return
	}
	io.WriteString(w, "from the backend")
}

func (b *backend) addr() string { return strings.TrimPrefix(b.URL, "http://") }

func (b *backend) deliveries() []delivery {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]delivery(nil), b.got...)
}

func (b *backend) wantDeliveries(t *testing.T, want int) {
	t.Helper()
	if got := len(b.deliveries()); got != want {
		t.Errorf("backend got %d requests, want %d", got, want)
	}
}

// taskEvent is the body of an event.
func taskEvent(taskID string) []byte {
	return fmt.Appendf(nil, `{"event_type":"task.completed","task_id":%q,"status":"completed","result":{"text":"ok"},"usage":{"cost":0.01}}`, taskID)
}

const (
	bodyDuplicate = `{"received": true, "duplicate": true}`
	bodyForged    = `{"error": "Invalid signature"}`
)
