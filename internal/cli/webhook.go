package cli

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// This file has what `caddy instantapi send` and the sandbox share, because both
// do what InstantAPI does.

// maxAnswer is how many bytes of an answer's body are read, and how many its header
// may have.
const maxAnswer = 64 << 10

// parseWebhookURL parses a URL that events can be sent to.
func parseWebhookURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" {
		return nil, errors.New("must be an absolute http or https URL") // the error of url.Parse repeats the text, and a password in it
	}
	return u, nil
}

// webhookClient returns a client that follows no redirects: a redirect is not a
// delivery, and it may lead where the owner of the URL does not want. With a nil
// trust, the client trusts the system's certificates.
func webhookClient(trust *tls.Config) *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConns, transport.MaxIdleConnsPerHost = maxConcurrency, maxConcurrency
	transport.MaxResponseHeaderBytes = maxAnswer
	transport.DialContext = dialAnswered
	transport.TLSClientConfig = trust
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// webhookRequest returns a request like InstantAPI's, without the signature.
func webhookRequest(ctx context.Context, method string, target *url.URL, body []byte) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, method, target.String(), bytes.NewReader(body))
	if err == nil && body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	return r, err
}

// exchange sends a request and reads the answer. The error says why there is no
// answer, or only part of one. It leaves out the URL, which may hold a password.
// The status is 0 if none arrived.
func exchange(client *http.Client, r *http.Request, timeout time.Duration) (status int, answer string, err error) {
	ctx, cancel := context.WithTimeout(withBeginnings(r.Context()), timeout)
	defer cancel()
	response, err := client.Do(r.WithContext(ctx))
	var body []byte
	if err == nil {
		defer response.Body.Close()
		status = response.StatusCode
		body, err = io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	}
	if err != nil {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			err = fmt.Errorf("no whole answer within %s", timeout)
		} else if failed, ok := errors.AsType[*url.Error](err); ok {
			err = explainTLS(failed.Err)
		}
		return status, string(body), err
	}
	if location := response.Header.Get("Location"); status/100 == 3 && location != "" {
		return status, "redirected to " + location + ", which senders need not follow", nil
	}
	return status, string(body), nil
}
