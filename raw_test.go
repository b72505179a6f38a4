package instantapi

import (
	"bufio"
	"io"
	"net/http"
	"testing"
)

// readReply reads one answer from a connection.
func readReply(t *testing.T, r io.Reader) (status int, body string) {
	t.Helper()
	res, err := http.ReadResponse(bufio.NewReader(r), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	content, err := io.ReadAll(res.Body)
	if err != nil {
		t.Error(err)
	}
	return res.StatusCode, string(content)
}
