package caddytest

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/instantapi/caddy-instantapi-verify/signature"
)

// Secret is the webhook secret of [Guard] and [Signed].
const Secret = "whsec_test"

// Event returns the body of the event that a task is completed.
func Event(taskID string) []byte { return EventOf("task.completed", taskID) }

// EventOf returns the body of an event of any type.
func EventOf(eventType, taskID string) []byte {
	return fmt.Appendf(nil, `{"event_type":%q,"task_id":%q,"status":"completed","result":{"text":"ok"},"usage":{"cost":0.01}}`, eventType, taskID)
}

// Signed returns a request as the sender makes it.
func Signed(url string, body []byte) *http.Request { return SignedWith(Secret, url, body) }

// SignedWith is [Signed] with another secret.
func SignedWith(secret, url string, body []byte) *http.Request {
	r := Unsigned(http.MethodPost, url, body)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set(signature.DefaultHeader, signature.Sign(secret, body))
	return r
}

// Unsigned returns a request that anybody could make.
func Unsigned(method, url string, body []byte) *http.Request {
	r, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		panic(err)
	}
	return r
}

// Sender makes a connection for each request, because a reload may close a kept
// one at the moment of its next use. It follows no redirects, because a
// redirect is not a delivery.
var Sender = &http.Client{
	Transport:     &http.Transport{DisableKeepAlives: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// Reply is an answer that has been read.
type Reply struct {
	Status int
	Header http.Header
	Body   string
}

// Do sends a request with [Sender], and sends it again if the connection
// breaks: a listener that a reload has just replaced may drop connections that
// it has not accepted yet.
func Do(t testing.TB, r *http.Request) Reply {
	t.Helper()
	for attempt := 1; ; attempt++ {
		got, err := DoWith(Sender, r)
		if err == nil {
			return got
		}
		if attempt == 3 || r.Body != nil && r.GetBody == nil {
			t.Fatal(err)
		}
		if r.Body == nil {
			continue
		}
		if r.Body, err = r.GetBody(); err != nil {
			t.Fatal(err)
		}
	}
}

// DoWith sends a request once.
func DoWith(client *http.Client, r *http.Request) (Reply, error) {
	res, err := client.Do(r)
	if err != nil {
		return Reply{}, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return Reply{res.StatusCode, res.Header, string(body)}, err
}

// The bodies of the guard's own answers.
const (
	Received  = `{"received": true}`
	Duplicate = `{"received": true, "duplicate": true}`
	Forged    = `{"error": "Invalid signature"}`
	BadJSON   = `{"error": "Invalid JSON"}`
	TooLarge  = `{"error": "Body too large"}`
	Method    = `{"error": "Method not allowed"}`
	Busy      = `{"error": "Delivery in progress"}`
	NoStore   = `{"error": "Store unavailable"}`
)

// Want fails the test unless this is the answer.
func (r Reply) Want(t testing.TB, status int, body string) {
	t.Helper()
	if r.Status != status || r.Body != body {
		t.Errorf("got %d %s, want %d %s", r.Status, r.Body, status, body)
	}
}

// WantJSON is [Reply.Want] for an answer of the guard's own.
func (r Reply) WantJSON(t testing.TB, status int, body string) {
	t.Helper()
	r.Want(t, status, body)
	if ct := r.Header.Get("Content-Type"); ct != "application/json" {
		t.Errorf("Content-Type is %q, want application/json", ct)
	}
}

// WantDuplicate fails the test unless the event was known.
func (r Reply) WantDuplicate(t testing.TB) {
	t.Helper()
	r.WantJSON(t, http.StatusOK, Duplicate)
}

// WantForwarded fails the test unless the answer is that of a [Backend].
func (r Reply) WantForwarded(t testing.TB) {
	t.Helper()
	r.Want(t, http.StatusOK, FromBackend)
}
