package instantapi

import (
	"bytes"
	"net/http"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/instantapi/caddy-instantapi-verify/internal/scan"
)

// maxProbe is the largest body, in bytes, of a request that may be a probe.
const maxProbe = 4 << 10

// isProbe reports whether this is the sender's test whether the endpoint is
// reachable, and the handler answers such tests. For users such a test is a
// verification request, the sender's word for it, though nothing is verified.
func (x *exchange) isProbe(signatures []string) bool {
	if !x.handler.AnswerVerificationRequests {
		return false
	}
	if x.request.Method == http.MethodGet || x.request.Method == http.MethodHead {
		return true
	}
	if x.request.Method != http.MethodPost || len(signatures) > 0 {
		return false
	}
	if err := x.readBody(maxProbe); err != nil {
		return false
	}
	return !mentionsTask(x.body.Bytes())
}

// mentionsTask reports whether an unsigned body could be meant as an event,
// which must not be answered with a 200. It errs on the side of yes.
func mentionsTask(body []byte) bool {
	if bytes.Contains(body, []byte("task_id")) {
		return true
	}
	var task [1]jsontext.Value
	_ = scan.Members(body, []string{"task_id"}, task[:]) // finds names with escapes, also in front of a fault
	return task[0] != nil
}
