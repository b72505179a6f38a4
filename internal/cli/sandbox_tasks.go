package cli

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/instantapi/caddy-instantapi-verify/signature"
)

// run serves until ctx ends. It then waits for the attempts that are under way.
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
	_ = server.Shutdown(patience) // tasks that still arrive are refused by begin

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
		panic(err) // impossible: the strings are UTF-8
	}
	w.Header().Set("Content-Type", "application/json")
	// 200 and not 202: some clients compare the status with 200.
	w.WriteHeader(status)
	_, _ = w.Write(body) // an error means that the client is gone
}

// sandboxRefusal says why a task is not accepted.
type sandboxRefusal struct {
	status int
	reason string
}

func badTask(format string, args ...any) *sandboxRefusal {
	return &sandboxRefusal{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}

// accept reads a task and begins it. It returns the task's ID, or a refusal, whose
// headers it sets.
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

// authorized checks the key. It compares digests, so that its time says nothing
// about the key, not even the length.
func (s *sandbox) authorized(headers []string) bool {
	if len(headers) != 1 {
		return false
	}
	scheme, key, _ := strings.Cut(headers[0], " ")
	digest := sha256.Sum256([]byte(key))
	return subtle.ConstantTimeCompare(digest[:], s.key[:]) == 1 && strings.EqualFold(scheme, "Bearer")
}

// sandboxTask is what a client wants done. The sandbox ignores its options.
type sandboxTask struct {
	name    string
	input   jsontext.Value
	webhook *url.URL
}

// parseSandboxTask parses the body of a request. It ignores members that it does
// not know.
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

// newEvent decides how a task ends and makes its event. It fails like
// [sampleEvent].
func (s *sandbox) newEvent(task *sandboxTask) (*sandboxEvent, error) {
	eventType, says := "task.completed", "What the sandbox makes of "+task.name
	if rand.Float64() < s.failRate {
		eventType, says = "task.failed", "The sandbox lets this task fail"
	}
	taskID := newTaskID()
	// The input is in the result so that results can be told apart.
	body, err := sampleEvent(eventType, taskID, says, task.input)
	if err != nil {
		return nil, err
	}
	return &sandboxEvent{taskID, eventType, task.webhook, body, signature.Sign(s.secret, body)}, nil
}
