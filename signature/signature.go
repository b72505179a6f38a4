// Package signature makes and verifies the signatures of InstantAPI webhook
// events: the HMAC-SHA256 of the raw body, in hex. It needs neither Caddy nor
// an HTTP server.
package signature

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"hash"
	"strings"
	"sync"
)

// DefaultHeader is the request header in which InstantAPI sends the signature.
const DefaultHeader = "X-InstantAPI-Signature"

// Reasons why a request is not authentic. The sender gets the same answer for
// all of them; the log says which it was.
var (
	// ErrMissing means that the request has no signature header.
	ErrMissing = errors.New("signature header is missing")

	// ErrRepeated means that there is more than one signature header: two
	// readers could disagree about which one counts.
	ErrRepeated = errors.New("signature header is repeated")

	// ErrMalformed means that the header's value is not 64 hex digits, with or
	// without "sha256=" in front.
	ErrMalformed = errors.New("signature is not 64 hex digits")

	// ErrMismatch means that no secret yields this signature for these bytes:
	// the sender used another secret, or the body was changed on its way.
	ErrMismatch = errors.New("signature matches no secret")

	// ErrNoSecret means that [NewVerifier] was called without a secret, or with
	// an empty one. A missing secret never means that nothing is checked.
	ErrNoSecret = errors.New("a secret is required and must not be empty")
)

// Signature is a decoded HMAC-SHA256 digest, as the sender sent it.
type Signature [sha256.Size]byte

// Parse decodes the values of a signature header. There must be exactly one
// value: 64 hex digits in either case, with an optional "sha256=" in front,
// which spaces or tabs may follow, because some senders write them. The error
// is one of [ErrMissing], [ErrRepeated] and [ErrMalformed].
func Parse(values []string) (Signature, error) {
	var sig Signature
	if len(values) == 0 {
		return sig, ErrMissing
	}
	if len(values) > 1 {
		return sig, ErrRepeated
	}
	digits, prefixed := strings.CutPrefix(values[0], "sha256=")
	if prefixed {
		digits = strings.TrimLeft(digits, " \t")
	}
	if len(digits) != hex.EncodedLen(len(sig)) {
		return sig, ErrMalformed
	}
	if _, err := hex.Decode(sig[:], []byte(digits)); err != nil {
		return sig, ErrMalformed
	}
	return sig, nil
}

// Verifier checks signatures against one or more secrets. It is safe for
// concurrent use.
type Verifier struct {
	// One pool of keyed HMAC states per secret. hmac.New hashes the key into
	// two blocks and allocates six times; taking a state from a pool does
	// neither.
	states []*sync.Pool
}

// keyed is an HMAC state with room for its digest.
type keyed struct {
	mac hash.Hash
	sum Signature
}

// NewVerifier returns a Verifier that accepts a signature made with any of the
// secrets: while a secret is being rotated, give the old and the new one. The
// error is [ErrNoSecret].
func NewVerifier(secrets ...string) (*Verifier, error) {
	if len(secrets) == 0 {
		return nil, ErrNoSecret
	}
	v := new(Verifier)
	for _, secret := range secrets {
		if secret == "" {
			return nil, ErrNoSecret
		}
		key := []byte(secret)
		v.states = append(v.states, &sync.Pool{New: func() any { return &keyed{mac: hmac.New(sha256.New, key)} }})
	}
	return v, nil
}

// Verify checks that sig is the HMAC-SHA256 of exactly these bytes, and returns
// the position of the secret that made it. The error is [ErrMismatch].
//
// Verify tries every secret, and every comparison takes the same time, so the
// time reveals neither how close a forgery came nor which secret is the current
// one.
func (v *Verifier) Verify(body []byte, sig Signature) (secret int, err error) {
	secret = -1
	for i, states := range v.states {
		state := states.Get().(*keyed)
		state.mac.Reset()
		state.mac.Write(body)
		state.mac.Sum(state.sum[:0])
		if subtle.ConstantTimeCompare(state.sum[:], sig[:]) == 1 {
			secret = i
		}
		states.Put(state)
	}
	if secret < 0 {
		return secret, ErrMismatch
	}
	return secret, nil
}

// Sign returns the value that a sender puts into the signature header for this
// body: the HMAC-SHA256 in lower-case hex.
func Sign(secret string, body []byte) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(body)
	return hex.EncodeToString(mac.Sum(nil))
}
