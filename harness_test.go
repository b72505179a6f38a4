package instantapi

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"github.com/instantapi/caddy-instantapi-verify/signature"
	"github.com/instantapi/caddy-instantapi-verify/store"
)

const testSecret = "whsec_test"

// TestMain keeps what Caddy writes for itself out of the user's folders.
func TestMain(m *testing.M) {
	home, err := os.MkdirTemp("", "instantapi_verify")
	if err != nil {
		panic(err)
	}
	for _, name := range []string{"XDG_DATA_HOME", "XDG_CONFIG_HOME", "HOME", "AppData"} {
		os.Setenv(name, home)
	}
	caddy.DefaultStorage.Path = caddy.AppDataDir() // made before this
	code := m.Run()
	os.RemoveAll(home)
	os.Exit(code)
}

// site is a Caddy in this process, with one server that stands for the user's.
type site struct {
	t     *testing.T
	addr  string // of the server under test
	bind  string // directive that makes it listen elsewhere
	store string // directory
	logs  string // file
}

// newSite returns a site that is not running yet.
func newSite(t *testing.T) *site {
	t.Helper()
	for _, o := range outcomes { // the test before may have used up its lines
		o.reportSuppressed()
		o.lines.rate = newLineLimit(nil).rate
	}
	dir := t.TempDir()
	s := &site{t: t, addr: freeAddr(t), store: filepath.Join(dir, "store"), logs: filepath.Join(dir, "log.json")}
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
		waitForClosedStores(t) // before the directory is removed
	})
	return s
}

// run is newSite and load.
func run(t *testing.T, routes string) *site {
	t.Helper()
	s := newSite(t)
	s.mustLoad(routes)
	return s
}

// global is the block of global options; servers and store are what goes into
// the blocks of these names.
func (s *site) global(servers, store string) string {
	return fmt.Sprintf(`{
	admin off
	skip_install_trust
	persist_config off
	log {
		output file %s
		format json
		level DEBUG
	}
	servers {
		%s
	}
	instantapi_verify {
		store badger {
			path %s
			min_free_space 32MiB
			%s
		}
	}
}
`, caddyQuote(s.logs), servers, caddyQuote(s.store), store)
}

func caddyQuote(s string) string { return "`" + s + "`" }

// caddyfile returns a whole Caddyfile with these routes in the site's block.
func (s *site) caddyfile(routes string) string {
	return s.global("", "") + "http://" + s.addr + " {\n" + s.bind + "\n" + routes + "\n}\n"
}

func (s *site) mustLoad(routes string) {
	s.t.Helper()
	if err := s.load(s.caddyfile(routes)); err != nil {
		s.t.Fatal(err)
	}
}

// load makes Caddy run a Caddyfile, as `caddy run` and `caddy reload` do.
func (s *site) load(caddyfile string) error {
	s.t.Helper()
	config, err := adapt(caddyfile)
	if err != nil {
		return err
	}
	return caddy.Load(config, true)
}

func adapt(caddyfile string) ([]byte, error) {
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), map[string]any{"filename": "Caddyfile"})
	return config, err
}

func (s *site) url(path string) string { return "http://" + s.addr + path }

// logged returns what Caddy has logged so far.
func (s *site) logged() string {
	s.t.Helper()
	b, err := os.ReadFile(s.logs)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(b)
}

// waitForClosedStores waits until all stores of this process are closed.
func waitForClosedStores(t testing.TB) {
	t.Helper()
	eventually(t, "stores are closed", func() bool {
		open := false
		storages.Range(func(_, lock any) bool {
			open = open || len(lock.(chan struct{})) > 0
			return true
		})
		return !open
	})
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("gave up waiting: %s", what)
		}
	}
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
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

// signed is a request as the sender makes it.
func signed(url string, body []byte) *http.Request {
	r, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		panic(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set(signature.DefaultHeader, signature.Sign(testSecret, body))
	return r
}

// sender makes a connection for each request. One that is used again may be
// closed by a reload at the moment of its use, as by any server that goes.
var sender = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// reply is an answer, read.
type reply struct {
	status int
	header http.Header
	body   string
}

// do sends a request until there is an answer: a listener that has just been
// replaced may still break a connection, see stress.
func do(t *testing.T, r *http.Request) reply {
	t.Helper()
	for attempt := 1; ; attempt++ {
		got, err := doWith(sender, r)
		if err == nil {
			return got
		}
		if attempt == 3 || r.GetBody == nil {
			t.Fatal(err)
		}
		r.Body, _ = r.GetBody()
	}
}

func doWith(client *http.Client, r *http.Request) (reply, error) {
	res, err := client.Do(r)
	if err != nil {
		return reply{}, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return reply{res.StatusCode, res.Header, string(body)}, err
}

// wantJSON checks an answer of our own.
func (got reply) wantJSON(t *testing.T, status int, body string) {
	t.Helper()
	if got.status != status || got.body != body {
		t.Errorf("got %d %s, want %d %s", got.status, got.body, status, body)
	}
	if ct := got.header.Get("Content-Type"); ct != "application/json" {
		t.Errorf("Content-Type is %q, want application/json", ct)
	}
}

func (got reply) wantForwarded(t *testing.T) {
	t.Helper()
	if got.status != http.StatusOK || got.body != "from the backend" {
		t.Errorf("got %d %s, want the backend's answer", got.status, got.body)
	}
}

const (
	bodyDuplicate = `{"received": true, "duplicate": true}`
	bodyReceived  = `{"received": true}`
	bodyForged    = `{"error": "Invalid signature"}`
	bodyBusy      = `{"error": "Delivery in progress"}`
	bodyNoStore   = `{"error": "Store unavailable"}`
)

// faultyStore is a store whose faults a test decides.
type faultyStore struct {
	mu      sync.Mutex
	records map[store.Identity]store.Record
	lookup  func(store.Identity) error // called first; may be nil
	record  func(store.Identity) error // likewise
	open    func(context.Context) error
}

func (s *faultyStore) Lookup(_ context.Context, id store.Identity) (store.Record, bool, error) {
	s.mu.Lock()
	lookup := s.lookup
	rec, found := s.records[id]
	s.mu.Unlock()
	if lookup != nil {
		if err := lookup(id); err != nil {
			return store.Record{}, false, err
		}
	}
	return rec, found, nil
}

func (s *faultyStore) Record(_ context.Context, id store.Identity, rec store.Record) error {
	s.mu.Lock()
	record := s.record
	s.mu.Unlock()
	if record != nil {
		if err := record(id); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.records == nil {
		s.records = make(map[store.Identity]store.Record)
	}
	s.records[id] = rec
	return nil
}

func (s *faultyStore) Forget(ctx context.Context, id store.Identity) error {
	if err := s.Record(ctx, id, store.Record{}); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.records, id)
	return nil
}

func (s *faultyStore) Close() error { return nil }

func (s *faultyStore) set(lookup, record func(store.Identity) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lookup, s.record = lookup, record
}

func (s *faultyStore) size() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.records)
}

// faultyModule makes faultyStores of a config; the test finds them by name.
type faultyModule struct {
	Name string `json:"name"`
}

var faultyStores sync.Map // name → *faultyStore

func (faultyModule) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "instantapi_verify.stores.faulty_in_root", New: func() caddy.Module { return new(faultyModule) }}
}

func (m *faultyModule) Key() string     { return "faulty:" + m.Name }
func (m *faultyModule) Options() string { return "" }

func (m *faultyModule) Open(ctx context.Context) (store.Store, error) {
	value, ok := faultyStores.Load(m.Name)
	if !ok {
		return nil, fmt.Errorf("no store %s", m.Name)
	}
	faulty := value.(*faultyStore)
	faulty.mu.Lock()
	open := faulty.open
	faulty.mu.Unlock()
	if open != nil {
		if err := open(ctx); err != nil {
			return nil, err
		}
	}
	return faulty, nil
}

func init() { caddy.RegisterModule(faultyModule{}) }

// runFaulty runs a site whose store is a faultyStore.
func runFaulty(t *testing.T, routes string) (*site, *faultyStore) {
	t.Helper()
	s := newSite(t)
	return s, s.loadFaulty(s.caddyfile(routes))
}

// loadFaulty is load, but for the store, which becomes a faultyStore.
func (s *site) loadFaulty(caddyfile string) *faultyStore {
	s.t.Helper()
	faulty := new(faultyStore)
	if err := s.loadWith(faulty, caddyfile); err != nil {
		s.t.Fatal(err)
	}
	return faulty
}

// loadWith is load, with this store.
func (s *site) loadWith(faulty *faultyStore, caddyfile string) error {
	s.t.Helper()
	faultyStores.Store(s.t.Name(), faulty)
	config, err := adapt(caddyfile)
	if err != nil {
		s.t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(config, &doc); err != nil {
		s.t.Fatal(err)
	}
	doc["apps"].(map[string]any)["instantapi_verify"] = map[string]any{
		"store": map[string]any{"module": "faulty_in_root", "name": s.t.Name()},
	}
	config, err = json.Marshal(doc)
	if err != nil {
		s.t.Fatal(err)
	}
	return caddy.Load(config, true)
}

// certificate writes a certificate for 127.0.0.1 and its key, and returns the
// files and a pool that trusts it.
func certificate(t *testing.T) (certFile, keyFile string, roots *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "127.0.0.1"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		NotAfter:     time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, der []byte) string {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots = x509.NewCertPool()
	roots.AddCert(cert)
	return write("cert.pem", "CERTIFICATE", der), write("key.pem", "PRIVATE KEY", pkcs8), roots
}

// timeout bounds a whole test's waiting.
func timeout(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}
