package cli

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// TestExchangeBlamesTheRightTimeout tries a timeout that is not the caller's.
func TestExchangeBlamesTheRightTimeout(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(release) })
	target, err := parseWebhookURL(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	client := webhookClient(nil)
	client.Transport.(*http.Transport).ResponseHeaderTimeout = 10 * time.Millisecond
	for timeout, want := range map[time.Duration]string{
		time.Minute:     "timeout awaiting response headers",
		time.Nanosecond: "no whole answer within 1ns",
	} {
		r, err := webhookRequest(t.Context(), http.MethodPost, target, nil)
		if err != nil {
			t.Fatal(err)
		}
		status, _, err := exchange(client, r, timeout)
		if status != 0 || err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), server.URL) {
			t.Errorf("got %d and %v, want %q", status, err, want)
		}
	}
}
