package instantapi

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dgraph-io/badger/v4"
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

// On a full disk nothing is promised that can't be kept, and what is known stays
// known.
func TestFullDiskRefusesOnlyNewEvents(t *testing.T) {
	var free atomic.Uint64
	free.Store(lowestMinFreeSpace)
	s, err := openBadger(t.TempDir(), true, lowestMinFreeSpace, func(string) (uint64, error) { return free.Load(), nil })
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	known := randomID()
	if err := s.Record(known, Record{Status: 200}); err != nil {
		t.Fatal(err)
	}
	wantKnown := func() {
		t.Helper()
		if _, found, err := s.Lookup(known); !found || err != nil {
			t.Errorf("known event: got %v %v", found, err)
		}
	}
	free.Store(lowestMinFreeSpace - 1)
	time.Sleep(2 * lookInterval)
	if _, found, err := s.Lookup(randomID()); found || !errors.Is(err, errNoSpace) {
		t.Errorf("unknown event: got %v %v, want errNoSpace", found, err)
	}
	refused := randomID()
	if err := s.Record(refused, Record{Status: 200}); !errors.Is(err, errNoSpace) {
		t.Errorf("recording: got %v, want errNoSpace", err)
	}
	wantKnown()

	free.Store(lowestMinFreeSpace)
	time.Sleep(2 * lookInterval)
	if _, found, err := s.Lookup(refused); found || err != nil {
		t.Errorf("after making room: got %v %v for an event that was refused", found, err)
	}
	if err := s.Record(refused, Record{Status: 200}); err != nil {
		t.Errorf("after making room: %v", err)
	}
	wantFound(t, s, []Identity{known, refused})
}

// Space that can't be read is no space.
func TestUnreadableFreeSpaceRefusesNewEvents(t *testing.T) {
	var failure atomic.Pointer[error]
	s, err := openBadger(t.TempDir(), true, lowestMinFreeSpace, func(string) (uint64, error) {
		if err := failure.Load(); err != nil {
			return 0, *err
		}
		return 1 << 40, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	gone := errors.New("device is gone")
	failure.Store(&gone)
	time.Sleep(2 * lookInterval)
	if _, _, err := s.Lookup(randomID()); !errors.Is(err, gone) {
		t.Errorf("looking up: got %v", err)
	}
	if err := s.Record(randomID(), Record{}); !errors.Is(err, gone) {
		t.Errorf("recording: got %v", err)
	}
}

// contents returns a digest of each file, but for Badger's lock.
func contents(t *testing.T, path string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(path, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Name() == "LOCK" {
			return err
		}
		files[path] = entry.Type().String()
		if entry.Type().IsRegular() {
			content, err := os.ReadFile(path)
			files[path] = fmt.Sprintf("%d bytes, %x", len(content), sha256.Sum256(content))
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// wantUnchanged compares what is in a directory with what was.
func wantUnchanged(t *testing.T, before, after map[string]string) {
	t.Helper()
	for path, content := range before {
		if now, there := after[path]; !there {
			t.Errorf("%s was removed", filepath.Base(path))
		} else if now != content {
			t.Errorf("%s was changed: %s, now %s", filepath.Base(path), content, now)
		}
	}
	for path, content := range after {
		if _, there := before[path]; !there {
			t.Errorf("%s was made: %s", filepath.Base(path), content)
		}
	}
}

// children are what this test binary does instead of testing, in a process of
// its own, where what it does may end that.
var children = map[string]func(dir string){
	"open": func(dir string) {
		s, err := openBadger(dir, true, lowestMinFreeSpace, freeSpace)
		if err != nil {
			fmt.Print(err)
			return
		}
		fmt.Print("opened")
		s.Close()
	},
}

// The environment variables that make a child.
const (
	childRole = "INSTANTAPI_VERIFY_TEST_CHILD"
	childDir  = "INSTANTAPI_VERIFY_TEST_CHILD_DIR"
)

func init() {
	if child := children[os.Getenv(childRole)]; child != nil {
		child(os.Getenv(childDir))
		os.Exit(0)
	}
}

func childCommand(role, dir string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childRole+"="+role, childDir+"="+dir)
	return cmd
}

// wantRefused checks that a directory is not opened, and left as it is. Some
// damage makes Badger panic in a goroutine of its own, so it takes a child.
func wantRefused(t *testing.T, dir string, wants ...string) {
	t.Helper()
	wantRefusedBy(t, childCommand("open", dir), dir, wants...)
}

func wantRefusedBy(t *testing.T, child *exec.Cmd, dir string, wants ...string) {
	t.Helper()
	before := contents(t, dir)
	output, err := child.Output()
	if err != nil {
		crash := err.Error()
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			crash += "\n" + string(exit.Stderr[:min(len(exit.Stderr), 2000)])
		}
		t.Errorf("opening ended the process: %s", crash)
	} else {
		wantError(t, errors.New(string(output)), wants...)
	}
	wantUnchanged(t, before, contents(t, dir))
}

// storeWithTables makes a store of two tables, and returns its directory.
func storeWithTables(t *testing.T) (dir string, ids []Identity) {
	t.Helper()
	dir = t.TempDir()
	for range 2 {
		s := testStore(t, dir, true)
		ids = append(ids, fillStore(t, s, 5000, time.Time{})...)
		if err := s.Close(); err != nil { // which writes a table
			t.Fatal(err)
		}
	}
	return dir, ids
}

func tables(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	if err != nil || len(files) == 0 {
		t.Fatalf("tables are %v, %v", files, err)
	}
	return files
}

func TestForeignAndDamagedDirectoriesAreRefused(t *testing.T) {
	good, ids := storeWithTables(t)
	s := testStore(t, good, true)
	wantFound(t, s, ids)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	write := func(t *testing.T, file, content string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	remove := func(t *testing.T, file string) {
		t.Helper()
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	manifest := func(dir string) string { return filepath.Join(dir, badger.ManifestFilename) }

	for name, test := range map[string]struct {
		prepare func(t *testing.T, dir string) // a new directory
		wants   []string
	}{
		"a folder of somebody's": {func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "thesis.txt"), "the only copy")
		}, []string{"holds something else (thesis.txt)", "give an empty or a new directory"}},
		"another's database": {func(t *testing.T, dir string) {
			db, err := badger.Open(badger.DefaultOptions(dir).WithLogger(nil).WithMemTableSize(8 << 20).WithValueLogFileSize(1 << 20))
			if err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			os.Remove(filepath.Join(dir, "LOCK"))
		}, []string{"holds something else", "give an empty or a new directory"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			test.prepare(t, dir)
			wantRefused(t, dir, test.wants...)
		})
	}

	damaged := []string{"damaged", "restore the directory from a backup, or move it away"}
	for name, test := range map[string]struct {
		damage func(t *testing.T, dir string) // a copy of the store
		wants  []string
	}{
		"another version": {func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, markFile), "instantapi_verify store, format 2\n")
		}, []string{"another version", "format 2", "use that version, or another path"}},
		"mark is missing": {func(t *testing.T, dir string) {
			remove(t, filepath.Join(dir, markFile))
		}, []string{"holds something else"}},
		"manifest is missing": {func(t *testing.T, dir string) { remove(t, manifest(dir)) },
			append(damaged, "MANIFEST is missing beside")},
		"manifest is empty": {func(t *testing.T, dir string) { write(t, manifest(dir), "") }, damaged},
		"manifest is garbage": {func(t *testing.T, dir string) {
			write(t, manifest(dir), strings.Repeat("garbage", 20))
		}, damaged},
		"manifest is zeros": {func(t *testing.T, dir string) {
			edit(t, manifest(dir), func(b []byte) []byte { clear(b); return b })
		}, damaged},
		"manifest has a flipped byte": {func(t *testing.T, dir string) {
			edit(t, manifest(dir), func(b []byte) []byte { b[len(b)-3] ^= 0xff; return b })
		}, damaged},
		"manifest is cut off": {func(t *testing.T, dir string) {
			edit(t, manifest(dir), func(b []byte) []byte { return b[:len(b)-3] })
		}, damaged},
		"manifest is a header alone": {func(t *testing.T, dir string) {
			edit(t, manifest(dir), func(b []byte) []byte { return b[:8] })
		}, damaged},
		"table is missing": {func(t *testing.T, dir string) { remove(t, tables(t, dir)[0]) }, damaged},
		"table is empty":   {func(t *testing.T, dir string) { write(t, tables(t, dir)[0], "") }, damaged},
		"table is zeros": {func(t *testing.T, dir string) {
			edit(t, tables(t, dir)[0], func(b []byte) []byte { clear(b); return b })
		}, damaged},
		"table is cut off": {func(t *testing.T, dir string) {
			edit(t, tables(t, dir)[0], func(b []byte) []byte { return b[:len(b)/2] })
		}, damaged},
		"table's end has a flipped byte": {func(t *testing.T, dir string) {
			edit(t, tables(t, dir)[0], func(b []byte) []byte { b[len(b)-6] ^= 0xff; return b })
		}, damaged},
		"table's data has a flipped byte": {func(t *testing.T, dir string) {
			edit(t, tables(t, dir)[0], func(b []byte) []byte { b[len(b)/3] ^= 0xff; return b })
		}, damaged},
		"table's index has a flipped byte": {func(t *testing.T, dir string) {
			edit(t, tables(t, dir)[0], func(b []byte) []byte { b[len(b)-60] ^= 0xff; return b })
		}, damaged},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(good)); err != nil {
				t.Fatal(err)
			}
			test.damage(t, dir)
			wantRefused(t, dir, test.wants...)
		})
	}

	t.Run("a file", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "file")
		write(t, file, "content")
		wantRefused(t, file, "can't be made", "give a path")
	})
	t.Run("below a file", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "file")
		write(t, file, "content")
		_, err := openBadger(filepath.Join(file, "store"), true, lowestMinFreeSpace, freeSpace)
		wantError(t, err, "can't be made", "give a path")
	})
}

// A clock that jumps ends or prolongs the remembering by as much as it jumped,
// and breaks nothing. In a bubble of synctest it is the year 2000, also for
// Badger; each change between there and here is a jump of decades.
func TestClockStepsBreakNothing(t *testing.T) {
	dir := t.TempDir()
	const retention = time.Minute
	early, late, back := randomID(), randomID(), randomID()
	record := func(s *badgerStore, id Identity) {
		t.Helper()
		if err := s.Record(id, Record{DeliveredAt: now(), Status: 200, ExpiresAt: now().Add(retention)}); err != nil {
			t.Error(err)
		}
	}
	wantKnown := func(s *badgerStore, id Identity, want bool) {
		t.Helper()
		if _, found, err := s.Lookup(id); found != want || err != nil {
			t.Errorf("at %s: got %v %v, want %v", now(), found, err, want)
		}
	}
	open := func(t *testing.T, use func(s *badgerStore)) {
		s := testStore(t, dir, true)
		use(s)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		open(t, func(s *badgerStore) {
			record(s, early)
			wantKnown(s, early, true)
			time.Sleep(2 * retention)
			wantKnown(s, early, false)
			record(s, early)
			wantKnown(s, early, true)
		})
	})
	open(t, func(s *badgerStore) { // decades forth
		wantKnown(s, early, false)
		record(s, late)
		wantKnown(s, late, true)
	})
	synctest.Test(t, func(t *testing.T) { // and back
		open(t, func(s *badgerStore) {
			wantKnown(s, late, true)
			time.Sleep(2 * retention)
			wantKnown(s, late, true)
			record(s, back)
			wantKnown(s, back, true)
		})
	})
	open(t, func(s *badgerStore) {
		wantKnown(s, late, true)
		wantKnown(s, back, false)
		// The free space is looked at again although the last look is to come.
		s.space.lastLook.Store(now().Add(time.Hour).UnixNano())
		s.space.min = math.MaxUint64
		if _, _, err := s.Lookup(randomID()); !errors.Is(err, errNoSpace) {
			t.Errorf("got %v, want errNoSpace", err)
		}
	})
}

// Whatever a commit does, everyone who waits for it gets an answer in time, and
// the next ones are served.
func TestEveryWriterGetsAnAnswer(t *testing.T) {
	refused := errors.New("refused")
	const bad = 7
	stuck := make(chan struct{})
	for name, test := range map[string]struct {
		commit func([]int) error
		want   func(item int, err error) bool
	}{
		"fails": {func([]int) error { return refused },
			func(_ int, err error) bool { return errors.Is(err, refused) }},
		"panics": {func([]int) error { panic("out of order") },
			func(_ int, err error) bool { return err != nil && strings.Contains(err.Error(), "out of order") }},
		"hangs": {func([]int) error { <-stuck; return nil },
			func(_ int, err error) bool { return errors.Is(err, errBatchTimeout) }},
		"has a bad item": {func(items []int) error {
			for _, item := range items {
				if item == bad {
					return refused
				}
			}
			return nil
		}, func(item int, err error) bool {
			return errors.Is(err, refused) == (item == bad) && (item == bad || err == nil)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			var broken atomic.Bool
			broken.Store(true)
			b := &batcher[int]{limit: 10, timeout: 300 * time.Millisecond, commit: func(items []int) error {
				if broken.Load() {
					return test.commit(items)
				}
				return nil
			}}
			var wg sync.WaitGroup
			begun := time.Now()
			for item := range 100 {
				wg.Go(func() {
					if err := b.add(item); !test.want(item, err) {
						t.Errorf("item %d: got %v", item, err)
					}
				})
			}
			wg.Wait()
			if took := time.Since(begun); took > 5*time.Second {
				t.Errorf("the answers took %s", took)
			}
			broken.Store(false)
			if name == "hangs" {
				close(stuck)
			}
			if err := b.add(bad); err != nil {
				t.Errorf("after the fault: %v", err)
			}
			b.close()
			if err := b.add(bad); !errors.Is(err, errBatchesClosed) {
				t.Errorf("after close: got %v, want errBatchesClosed", err)
			}
		})
	}
}

// What a caller gave up on is written before what comes later: a late record must
// not undo that its event was forgotten since.
func TestWritersAreServedInOrder(t *testing.T) {
	hang := make(chan struct{})
	var committed []int
	b := &batcher[int]{limit: 1, timeout: time.Nanosecond, commit: func(items []int) error {
		<-hang
		committed = append(committed, items...)
		return nil
	}}
	for item := range 200 {
		if err := b.add(item); !errors.Is(err, errBatchTimeout) {
			t.Errorf("got %v, want errBatchTimeout", err)
		}
	}
	close(hang)
	b.close()
	if len(committed) != 200 || !slices.IsSorted(committed) {
		t.Errorf("committed in the order %v", committed)
	}
}

// close waits for what has been accepted, and nobody is left without an answer.
func TestCloseAnswersEveryWriter(t *testing.T) {
	var committed atomic.Int64
	b := &batcher[int]{limit: 10, timeout: 5 * time.Second, commit: func(items []int) error {
		time.Sleep(time.Millisecond)
		committed.Add(int64(len(items)))
		return nil
	}}
	var accepted, refused atomic.Int64
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			for item := range 100 {
				switch err := b.add(item); {
				case err == nil:
					accepted.Add(1)
				case errors.Is(err, errBatchesClosed):
					refused.Add(1)
				default:
					t.Error(err)
				}
			}
		})
	}
	time.Sleep(20 * time.Millisecond)
	b.close()
	after := committed.Load()
	wg.Wait()
	if committed.Load() != after {
		t.Error("something was committed after close")
	}
	if accepted.Load() != after || accepted.Load()+refused.Load() != 5000 || refused.Load() == 0 {
		t.Errorf("%d were committed, %d accepted, %d refused", after, accepted.Load(), refused.Load())
	}
}
