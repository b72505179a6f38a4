package instantapi

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// What `caddy instantapi send` and the sandbox have in common: both do what the
// sender does.

// maxAnswer is how many bytes of an answer are read, and how many its header may
// have.
const maxAnswer = 64 << 10

// anyText is for text that JSON.stringify wrote after it was cut in the middle of
// an emoji.
var anyText = jsontext.AllowInvalidUTF8(true)

func newTaskID() string { return "task_" + strings.ToLower(rand.Text()[:12]) }

// sampleEvent returns the body of an event like the sender's. Its result has a
// text, or an error if the task failed, and an input if there is one. The error
// is that of an input as deep as JSON may be: in an event it would be deeper.
func sampleEvent(eventType, taskID, says string, input jsontext.Value) ([]byte, error) {
	type result struct {
		Text  string         `json:"text,omitzero"`
		Error string         `json:"error,omitzero"`
		Input jsontext.Value `json:"input,omitzero"`
	}
	type usage struct {
		Cost float64 `json:"cost"`
	}
	event := struct {
		EventType string `json:"event_type"`
		TaskID    string `json:"task_id"`
		Status    string `json:"status"`
		Result    result `json:"result"`
		Usage     usage  `json:"usage"`
	}{
		eventType, taskID, strings.TrimPrefix(eventType, "task."), result{Text: says, Input: input}, usage{0.01},
	}
	if eventType == "task.failed" {
		event.Result.Text, event.Result.Error, event.Usage.Cost = "", says, 0
	}
	return json.Marshal(event, anyText)
}

// parseWebhookURL parses a URL that events can be sent to.
func parseWebhookURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" {
		return nil, errors.New("must be an absolute http or https URL") // url's own error would repeat it
	}
	return u, nil
}

// webhookClient returns a client that follows no redirect: an answer that says
// "elsewhere" is no delivery, and who names the URL need not be who answers there.
func webhookClient() *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConns, transport.MaxIdleConnsPerHost = maxConcurrency, maxConcurrency
	transport.MaxResponseHeaderBytes = maxAnswer
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// webhookRequest returns a request as the sender makes it, but for the signature.
func webhookRequest(ctx context.Context, method string, target *url.URL, body []byte) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, method, target.String(), bytes.NewReader(body))
	if err == nil && body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	return r, err
}

// exchange makes a request and reads the answer. An error says why there is none,
// or not a whole one, without the URL: there may be a password in it. The status
// is 0 only if none came.
func exchange(client *http.Client, r *http.Request, timeout time.Duration) (status int, answer string, err error) {
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()
	response, err := client.Do(r.WithContext(ctx))
	var body []byte
	if err == nil {
		defer response.Body.Close()
		status = response.StatusCode
		body, err = io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	}
	if err != nil {
		if ctx.Err() == context.DeadlineExceeded {
			err = fmt.Errorf("no whole answer within %s", timeout)
		} else if failed, ok := errors.AsType[*url.Error](err); ok {
			err = failed.Err
		}
		return status, string(body), err
	}
	if location := response.Header.Get("Location"); status/100 == 3 && location != "" {
		return status, "redirected to " + location + ", which senders need not follow", nil
	}
	return status, string(body), nil
}
