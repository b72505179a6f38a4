package instantapi

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/instantapi/caddy-instantapi-verify/signature"
	"github.com/spf13/cobra"
)

const (
	sandboxPath = "/api/v1/generate"

	// What the sandbox goes by unless told otherwise, so that it and the quick
	// start work together as they stand.
	sandboxKey    = "demo-key"
	sandboxSecret = "demo-secret"

	// What bounds it. A task's input is kept until its event is delivered, so the
	// product of the first two is the memory that it takes; thrice that for bytes
	// that are no UTF-8 and are replaced.
	sandboxMaxBody    = 256 << 10
	sandboxMaxPending = 1000
	sandboxMaxPause   = 30 * time.Second

	// What requests to it may take.
	sandboxRequestTimeout = 10 * time.Second
)

func newSandboxCommand() *cobra.Command {
	var s sandbox
	cmd := &cobra.Command{
		Use:   "sandbox",
		Short: "Stands in for InstantAPI, to try and test with",
		Long: `Takes tasks as InstantAPI does and posts their signed events to the task's
webhook_url, without an account. The results are made up.

	POST ` + sandboxPath + `
	Authorization: Bearer <key>

	{"task": "summarize", "input": "...", "options": {}, "webhook_url": "http://localhost:8080/"}

is answered with {"task_id": "..."}. The event follows after --delay. Where it is
not answered with 2xx, or not within --timeout, it is sent again: after --backoff,
twice as long, and so on up to ` + sandboxMaxPause.String() + `, each give or take a half. For each attempt
there is one line with what came of it. What is not delivered when the sandbox
ends is lost.

Where others than this machine can reach the sandbox, it wants a key of its own:
who has the key can make it send requests anywhere.`,
		Example: `  caddy instantapi sandbox --duplicate-rate 0.5 --fail-rate 0.2`,
		Args:    noArguments,
	}
	flags := cmd.Flags()
	var key, secret credentialFlags
	key.register(cmd, "key", "the API `key` that it asks for (default "+sandboxKey+")")
	secret.register(cmd, "secret", secretUsage+" that it signs with (default "+sandboxSecret+")")
	listen := flags.String("listen", "127.0.0.1:8090", "the `address` to listen on")
	register := flags.String("register", "", "a `URL` to request first, unsigned, as when an endpoint is registered")
	flags.DurationVar(&s.delay, "delay", time.Second, "how long a task takes")
	flags.Float64Var(&s.failRate, "fail-rate", 0, "the `share` of the tasks that fail, from 0 to 1")
	flags.Float64Var(&s.duplicateRate, "duplicate-rate", 0, "the `share` of the events that are delivered twice, from 0 to 1")
	flags.DurationVar(&s.timeout, "timeout", 10*time.Second, "how long an attempt waits for the answer")
	flags.UintVar(&s.attempts, "attempts", 8, "make at most `n` attempts to deliver an event")
	flags.DurationVar(&s.backoff, "backoff", 500*time.Millisecond, "the pause before the second attempt")

	cmd.RunE = withStatus(func(cmd *cobra.Command) (int, error) {
		apiKey, err := key.one(sandboxKey)
		if err != nil {
			return 1, err
		}
		if s.secret, err = secret.one(sandboxSecret); err != nil {
			return 1, err
		}
		s.key = sha256.Sum256([]byte(apiKey))
		if err := s.validate(); err != nil {
			return 1, err
		}
		var target *url.URL
		if *register != "" {
			if target, err = parseWebhookURL(*register); err != nil {
				return 1, fmt.Errorf("--register %v", err)
			}
		}
		listener, err := sandboxListen(*listen, apiKey)
		if err != nil {
			return 1, err
		}
		defer listener.Close()

		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		context.AfterFunc(ctx, stop) // so that a second signal ends it at once

		s.client = webhookClient()
		s.log = log.New(cmd.OutOrStdout(), "", log.Ltime)
		if target != nil {
			s.register(ctx, target)
		}
		return 0, s.run(ctx, listener)
	})
	return cmd
}

// sandboxListen listens on address. A key that everybody knows is good for
// loopback only: with it, all who reach the sandbox could make it send requests.
func sandboxListen(address, key string) (net.Listener, error) {
	addr, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("--listen takes a host and a port, as in 127.0.0.1:8090: %v", err)
	}
	if key == sandboxKey && !addr.IP.IsLoopback() {
		return nil, fmt.Errorf("the demo key is not for %s, which others can reach: set --key-env", address)
	}
	return net.ListenTCP("tcp", addr)
}

// sandbox stands in for the sender. It is the command's only: no handler of this
// package uses it.
type sandbox struct {
	key                     [sha256.Size]byte // the API key's digest
	secret                  string
	delay, timeout, backoff time.Duration
	failRate, duplicateRate float64
	attempts                uint
	client                  *http.Client
	log                     *log.Logger

	tasks sync.WaitGroup

	mu          sync.Mutex
	pending     int // tasks
	undelivered int // events
	ending      bool
}

func (s *sandbox) validate() error {
	switch {
	case !(s.failRate >= 0 && s.failRate <= 1): // so that NaN is wrong too
		return errors.New("--fail-rate must be from 0 to 1")
	case !(s.duplicateRate >= 0 && s.duplicateRate <= 1):
		return errors.New("--duplicate-rate must be from 0 to 1")
	case s.delay < 0:
		return errors.New("--delay must not be negative")
	case s.timeout <= 0:
		return errors.New("--timeout must be more than 0")
	case s.backoff <= 0 || s.backoff > sandboxMaxPause:
		return fmt.Errorf("--backoff must be more than 0 and at most %s", sandboxMaxPause)
	case s.attempts < 1:
		return errors.New("--attempts must be at least 1")
	}
	return nil
}

// withoutCredentials is a URL without what may be a password or a token, for a
// person to read.
func withoutCredentials(u *url.URL) string {
	return printable((&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String())
}

// run serves until ctx ends. Attempts that go on by then may come to their end.
func (s *sandbox) run(ctx context.Context, listener net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	server := &http.Server{
		Handler:        http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.serve(ctx, w, r) }),
		ReadTimeout:    sandboxRequestTimeout,
		WriteTimeout:   sandboxRequestTimeout,
		IdleTimeout:    time.Minute,
		MaxHeaderBytes: 16 << 10,
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	s.log.Printf("taking tasks on http://%s%s", listener.Addr(), sandboxPath)

	var err error
	select {
	case err = <-failed:
		cancel()
	case <-ctx.Done():
		s.log.Print("ending; a second signal ends it at once")
	}
	patience, done := context.WithTimeout(context.WithoutCancel(ctx), sandboxRequestTimeout)
	defer done()
	_ = server.Shutdown(patience) // what it did not wait for is refused by begin

	s.mu.Lock()
	s.ending = true
	s.mu.Unlock()
	s.tasks.Wait()
	s.log.Printf("ended; events undelivered: %d", s.undelivered)
	return err
}

// serve answers a request.
func (s *sandbox) serve(ctx context.Context, w http.ResponseWriter, r *http.Request) {
	taskID, refusal := s.accept(ctx, w, r)
	status, answer := http.StatusOK, map[string]string{"task_id": taskID}
	if refusal != nil {
		status, answer = refusal.status, map[string]string{"error": refusal.reason}
	}
	body, err := json.Marshal(answer)
	if err != nil {
		panic(err) // two strings that are UTF-8
	}
	w.Header().Set("Content-Type", "application/json")
	// 200 and not 202, for the clients that compare it with 200.
	w.WriteHeader(status)
	_, _ = w.Write(body) // if the client has gone, it has gone
}

// sandboxRefusal is why a task is not taken.
type sandboxRefusal struct {
	status int
	reason string
}

func badTask(format string, args ...any) *sandboxRefusal {
	return &sandboxRefusal{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}

// accept takes a task, and returns its ID or why it does not. It sets the
// headers that go with a refusal.
func (s *sandbox) accept(ctx context.Context, w http.ResponseWriter, r *http.Request) (taskID string, refusal *sandboxRefusal) {
	if r.URL.Path != sandboxPath {
		return "", &sandboxRefusal{http.StatusNotFound, "Not found"}
	}
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return "", &sandboxRefusal{http.StatusMethodNotAllowed, "Method not allowed"}
	}
	if !s.authorized(r.Header.Values("Authorization")) {
		w.Header().Set("WWW-Authenticate", "Bearer")
		return "", &sandboxRefusal{http.StatusUnauthorized, "Invalid API key"}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, sandboxMaxBody))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return "", &sandboxRefusal{http.StatusRequestEntityTooLarge, "Body too large"}
	}
	if err != nil {
		return "", badTask("Incomplete body")
	}
	task, refusal := parseSandboxTask(body)
	if refusal != nil {
		return "", refusal
	}
	event, err := s.newEvent(task)
	if err != nil {
		return "", badTask("input is nested too deeply")
	}
	if !s.begin(ctx, event) {
		w.Header().Set("Retry-After", "1")
		return "", &sandboxRefusal{http.StatusServiceUnavailable, "Too many pending tasks"}
	}
	return event.taskID, nil
}

// authorized checks the key. It compares digests, so that the time it takes says
// nothing about the key, not even its length.
func (s *sandbox) authorized(headers []string) bool {
	if len(headers) != 1 {
		return false
	}
	scheme, key, _ := strings.Cut(headers[0], " ")
	digest := sha256.Sum256([]byte(key))
	return subtle.ConstantTimeCompare(digest[:], s.key[:]) == 1 && strings.EqualFold(scheme, "Bearer")
}

// sandboxTask is what a client wants done. Its options change nothing here.
type sandboxTask struct {
	name    string
	input   jsontext.Value
	webhook *url.URL
}

// parseSandboxTask reads the body of a request. What it does not use it does not
// look at.
func parseSandboxTask(body []byte) (*sandboxTask, *sandboxRefusal) {
	var request struct {
		Task       string         `json:"task"`
		Input      jsontext.Value `json:"input"`
		WebhookURL string         `json:"webhook_url"`
	}
	err := json.Unmarshal(body, &request, anyText)
	if mismatch, ok := errors.AsType[*json.SemanticError](err); ok {
		if field := mismatch.JSONPointer.LastToken(); field != "" {
			return nil, badTask("%s must be a string", field)
		}
		return nil, badTask("The body must be a JSON object")
	}
	if err != nil {
		return nil, badTask("Invalid JSON")
	}
	if request.Task == "" {
		return nil, badTask("task is missing")
	}
	if request.WebhookURL == "" {
		return nil, badTask("webhook_url is missing")
	}
	webhook, err := parseWebhookURL(request.WebhookURL)
	if err != nil {
		return nil, badTask("webhook_url %v", err)
	}
	return &sandboxTask{request.Task, request.Input, webhook}, nil
}

// sandboxEvent is an event, ready to be sent any number of times.
type sandboxEvent struct {
	taskID    string
	eventType string
	webhook   *url.URL
	body      []byte
	sig       string
}

// newEvent decides how a task ends. The error is that of [sampleEvent].
func (s *sandbox) newEvent(task *sandboxTask) (*sandboxEvent, error) {
	eventType, says := "task.completed", "What the sandbox makes of "+task.name
	if rand.Float64() < s.failRate {
		eventType, says = "task.failed", "The sandbox lets this task fail"
	}
	taskID := newTaskID()
	// With the input, so that one result can be told from another.
	body, err := sampleEvent(eventType, taskID, says, task.input)
	if err != nil {
		return nil, err
	}
	return &sandboxEvent{taskID, eventType, task.webhook, body, signature.Sign(s.secret, body)}, nil
}

// begin starts to work on a task, if there is room for one more.
func (s *sandbox) begin(ctx context.Context, event *sandboxEvent) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending || s.pending == sandboxMaxPending {
		return false
	}
	s.pending++
	s.log.Printf("%s accepted, in %s %s gets %s", event.taskID, s.delay, withoutCredentials(event.webhook), printable(string(event.body)))
	s.tasks.Go(func() { s.work(ctx, event) })
	return true
}

// work waits as long as the task takes and delivers its event, once or twice.
func (s *sandbox) work(ctx context.Context, event *sandboxEvent) {
	copies := []string{""}
	if rand.Float64() < s.duplicateRate {
		copies = []string{" copy 1 of 2", " copy 2 of 2"}
	}
	delivered := make([]bool, len(copies))
	var deliveries sync.WaitGroup
	for i, label := range copies {
		// The copies may go out at once, or one after the other's answer: senders
		// do both, and receivers must take both.
		wait := s.delay
		if i > 0 {
			wait += rand.N(s.backoff)
		}
		deliveries.Go(func() {
			delivered[i] = pauseFor(ctx, wait) && s.deliver(ctx, event, event.taskID+" "+event.eventType+label)
		})
	}
	deliveries.Wait()

	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending--
	for _, ok := range delivered {
		if ok {
			return
		}
	}
	s.undelivered++
	s.log.Printf("%s %s undelivered", event.taskID, event.eventType)
}

// pauseFor waits, and reports whether ctx lasted that long.
func pauseFor(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// deliver posts an event until it is acknowledged, and reports whether it was.
func (s *sandbox) deliver(ctx context.Context, event *sandboxEvent, what string) bool {
	pauses := backoff.NewExponentialBackOff() // each give or take a half
	pauses.InitialInterval, pauses.MaxInterval, pauses.Multiplier = s.backoff, sandboxMaxPause, 2
	for attempt := uint(1); ; attempt++ {
		// An attempt is not broken off: nobody would know what became of it.
		status, answer := s.send(context.WithoutCancel(ctx), http.MethodPost, event.webhook, event.body, event.sig)
		what := fmt.Sprintf("%s attempt %d: %s", what, attempt, answer)
		if status/100 == 2 {
			s.log.Print(what)
			return true
		}
		if attempt == s.attempts {
			s.log.Print(what, ", given up")
			return false
		}
		pause := pauses.NextBackOff()
		s.log.Print(what, ", again in ", pause.Round(time.Millisecond))
		if !pauseFor(ctx, pause) {
			return false
		}
	}
}

// register asks whether an endpoint can be reached. How InstantAPI does that is
// not documented, so there is one request of each kind that it could be.
func (s *sandbox) register(ctx context.Context, endpoint *url.URL) {
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		_, answer := s.send(ctx, method, endpoint, nil, "")
		s.log.Printf("registering %s, unsigned %s: %s", withoutCredentials(endpoint), method, answer)
	}
}

// send makes a request, signed if there is a signature, and returns the answer's
// status, 0 if there is none, and the answer or the reason for a person to read.
func (s *sandbox) send(ctx context.Context, method string, target *url.URL, body []byte, sig string) (status int, answer string) {
	r, err := webhookRequest(ctx, method, target, body)
	if err != nil {
		return 0, "no request can be made of its URL"
	}
	if sig != "" {
		r.Header.Set(signature.DefaultHeader, sig)
	}
	// It is acknowledged by its status; a body that ends early changes nothing.
	status, answer, err = exchange(s.client, r, s.timeout)
	if status == 0 {
		return 0, printable("no answer: " + err.Error())
	}
	return status, printable(fmt.Sprint(status, " ", http.StatusText(status), " ", answer))
}
