package instantapi

import (
	"bytes"
	"fmt"
	"net/http"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/instantapi/caddy-instantapi-verify/internal/scan"
	"github.com/instantapi/caddy-instantapi-verify/signature"
)

// verify checks the signature, and counts the secret that made it.
func (x *exchange) verify(sig signature.Signature) error {
	start := time.Now()
	secret, err := x.handler.verifier.Verify(x.body.Bytes(), sig)
	verifySeconds.Observe(time.Since(start).Seconds())
	if err != nil {
		return err
	}
	x.handler.matches[secret].Inc()
	return nil
}

// maxVerificationRequest is the largest body, in bytes, of a request that may
// be the sender's test whether the endpoint is reachable.
const maxVerificationRequest = 4 << 10

// isVerificationRequest reports whether this is the sender's test whether the
// endpoint is reachable, and the handler answers such tests.
func (x *exchange) isVerificationRequest(signatures []string) bool {
	if !x.handler.AnswerVerificationRequests {
		return false
	}
	if x.request.Method == http.MethodGet || x.request.Method == http.MethodHead {
		return true
	}
	if x.request.Method != http.MethodPost || len(signatures) > 0 {
		return false
	}
	if err := x.readBody(maxVerificationRequest); err != nil {
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

// methodError is the error of a request whose method is not POST.
type methodError string

func (method methodError) Error() string { return fmt.Sprintf("method %q is not POST", string(method)) }

func (h *Handler) allowedMethods() string {
	if h.AnswerVerificationRequests {
		return "GET, HEAD, POST"
	}
	return http.MethodPost
}
