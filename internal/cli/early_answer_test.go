package cli

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// An answer that comes before the body was read is an answer, also where the
// server hangs up behind it.
func TestEarlyAnswersArrive(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go answerEarly(conn)
		}
	}()
	target, err := parseWebhookURL("http://" + listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	client := webhookClient()
	body := bytes.Repeat([]byte("x"), 16<<20)
	for i := range 50 {
		r, err := webhookRequest(t.Context(), http.MethodPost, target, body)
		if err != nil {
			t.Fatal(err)
		}
		status, answer, err := exchange(client, r, 20*time.Second)
		if status != http.StatusRequestEntityTooLarge || answer != "too large" || err != nil {
			t.Errorf("%d: got %d %q and %v", i, status, answer, err)
		}
	}
}

// answerEarly answers a request when it has read its header, and closes the
// connection with most of the body unread, which resets it.
func answerEarly(conn net.Conn) {
	defer conn.Close()
	if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
		return
	}
	io.WriteString(conn, "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 9\r\n\r\ntoo large")
}
