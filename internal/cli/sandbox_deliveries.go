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

// withoutCredentials is a URL without what may be a password or a token, for a
// person to read.
func withoutCredentials(u *url.URL) string {
	return printable((&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String())
}
