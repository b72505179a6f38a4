package instantapi

import (
	"errors"
	"fmt"
	"net/http"
	"slices"

	"golang.org/x/net/http/httpguts"
)

// Request headers that tell the next handlers what the guard has checked.
const (
	headerVerified     = "X-Instantapi-Verified"
	headerDeduplicated = "X-Instantapi-Deduplicated"

	defaultIdempotencyHeader = "Idempotency-Key"

	// idempotencyOff is the option's value for no such header.
	idempotencyOff = "off"
)

// connectionHeaders concern only the connection to the sender, so none of them
// is passed on. A webhook is a single request, so there is nothing to upgrade to; and
// reverse_proxy removes every header that Connection names, which could be the
// guard's own.
var connectionHeaders = []string{
	"Connection", "Http2-Settings", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Upgrade",
}

// reservedHeaders are set by the protocol, by the proxy or for the body, so none
// of them can carry a signature or an identity.
var reservedHeaders = append([]string{
	"Content-Encoding", "Content-Length", "Content-Type", "Expect", "Host", "Transfer-Encoding", "Via",
}, connectionHeaders...)

// checkHeaderName checks the name of a header that carries a signature or an
// identity.
func checkHeaderName(name string) error {
	if !httpguts.ValidHeaderFieldName(name) {
		return fmt.Errorf("%q is not a header name", name)
	}
	if slices.ContainsFunc(reservedHeaders, func(other string) bool { return isSpelling(name, other) }) {
		return fmt.Errorf("%s has another meaning in HTTP; give another header", name)
	}
	if isSpelling(name, headerVerified) || isSpelling(name, headerDeduplicated) {
		return fmt.Errorf("%s is what the guard tells the backend; give another header", name)
	}
	return nil
}

// checkIdempotencyHeader is checkHeaderName for the option that may be off.
func checkIdempotencyHeader(name string) error {
	if name == idempotencyOff {
		return nil
	}
	return checkHeaderName(name)
}

// checkHeaderNames checks the names against each other: the guard removes what
// the client sends under the name of the identity.
func (h *Handler) checkHeaderNames() error {
	if err := checkHeaderName(h.SignatureHeader); err != nil {
		return fmt.Errorf("signature_header: %w", err)
	}
	if err := checkIdempotencyHeader(h.IdempotencyHeader); err != nil {
		return fmt.Errorf("idempotency_header: %w", err)
	}
	if isSpelling(h.SignatureHeader, h.IdempotencyHeader) {
		return errors.New("idempotency_header: it is the signature_header; give another header")
	}
	if isSpelling(h.SignatureHeader, defaultIdempotencyHeader) {
		return fmt.Errorf("signature_header: %s is removed from all requests; give another header", defaultIdempotencyHeader)
	}
	return nil
}

// provisionHeaders works out the names of the headers to read, set and remove.
func (h *Handler) provisionHeaders() {
	h.signatureHeader = http.CanonicalHeaderKey(h.SignatureHeader)
	h.guardHeaders = []string{headerVerified, headerDeduplicated, defaultIdempotencyHeader}
	if h.IdempotencyHeader == idempotencyOff {
		return
	}
	h.idempotencyHeader = http.CanonicalHeaderKey(h.IdempotencyHeader)
	if h.idempotencyHeader != defaultIdempotencyHeader {
		h.guardHeaders = append(h.guardHeaders, h.idempotencyHeader)
	}
}

// isSpelling reports whether a backend may take one header name for the other.
// CGI and its heirs (FastCGI, WSGI, Rack, PHP) put a header's name in upper
// case and replace everything but letters and digits with underscores.
func isSpelling(name, other string) bool {
	if len(name) != len(other) {
		return false
	}
	for i := range len(name) {
		if foldHeaderByte(name[i]) != foldHeaderByte(other[i]) {
			return false
		}
	}
	return true
}

func foldHeaderByte(c byte) byte {
	switch {
	case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		return c
	case 'A' <= c && c <= 'Z':
		return c + ('a' - 'A')
	default:
		return '_'
	}
}

// removeGuardHeaders removes the client's own copies of the headers that only the
// guard may set. It removes trailers too, because some backends turn them into
// headers.
func (x *exchange) removeGuardHeaders() {
	r := x.request
	for name := range r.Header {
		for _, own := range x.handler.guardHeaders {
			if isSpelling(name, own) {
				delete(r.Header, name)
			}
		}
	}
	r.Trailer = nil
}

// removeConnectionHeaders turns an upgrade request into an ordinary one, and
// removes Connection, which could make a proxy drop the guard's headers.
func (x *exchange) removeConnectionHeaders() {
	for _, name := range connectionHeaders {
		delete(x.request.Header, name)
	}
}

// setGuardHeaders tells the next handlers that the event is authentic, and its
// identity.
func (x *exchange) setGuardHeaders() {
	header := x.request.Header
	values := []string{"true", x.id.String()} // one for each header
	header[headerVerified] = values[0:1:1]
	if x.handler.idempotencyHeader != "" {
		header[x.handler.idempotencyHeader] = values[1:2:2]
	}
	if x.inFront != nil && x.inFront.unprotected {
		x.markUnprotected()
	}
}

// markUnprotected tells the next handlers that the event may have been delivered
// before.
func (x *exchange) markUnprotected() {
	x.unprotected = true
	x.request.Header[headerDeduplicated] = []string{"false"}
}
