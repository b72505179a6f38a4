package cli

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/instantapi/caddy-instantapi-verify/signature"
)

// begin starts a task, and reports whether there was room for it.
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

// work waits while the task takes its time, and delivers the event once or twice.
func (s *sandbox) work(ctx context.Context, event *sandboxEvent) {
	copies := []string{""}
	if rand.Float64() < s.duplicateRate {
		copies = []string{" copy 1 of 2", " copy 2 of 2"}
	}
	delivered := make([]bool, len(copies))
	var deliveries sync.WaitGroup
	for i, label := range copies {
		// The copies may be under way together or one after the other: senders do
		// both, so receivers must accept both.
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

// pauseFor waits. It returns false at once if ctx ends before that.
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
	pauses := backoff.NewExponentialBackOff() // each varies at random by half
	pauses.InitialInterval, pauses.MaxInterval, pauses.Multiplier = s.backoff, sandboxMaxPause, 2
	for attempt := uint(1); ; attempt++ {
		// An attempt is never cancelled, because its outcome would be unknown.
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

// register requests an endpoint as if it were being registered. How InstantAPI does
// that is not documented, so register sends each kind of request that it may be.
func (s *sandbox) register(ctx context.Context, endpoint *url.URL) {
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		_, answer := s.send(ctx, method, endpoint, nil, "")
		s.log.Printf("registering %s, unsigned %s: %s", withoutCredentials(endpoint), method, answer)
	}
}

// send sends a request, signed unless sig is empty. It returns the status of the
// answer, 0 if there is none, and the answer or the error for a person to read.
func (s *sandbox) send(ctx context.Context, method string, target *url.URL, body []byte, sig string) (status int, answer string) {
	r, err := webhookRequest(ctx, method, target, body)
	if err != nil {
		return 0, "its URL can't be requested"
	}
	if sig != "" {
		r.Header.Set(signature.DefaultHeader, sig)
	}
	// The status acknowledges the event, even if the body of the answer is cut off.
	status, answer, err = exchange(s.client, r, s.timeout)
	if status == 0 {
		return 0, printable("no answer: " + err.Error())
	}
	return status, printable(fmt.Sprint(status, " ", http.StatusText(status), " ", answer))
}

// withoutCredentials returns a URL for a person to read, without the parts that may
// hold a password or a token.
func withoutCredentials(u *url.URL) string {
	return printable((&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String())
}
