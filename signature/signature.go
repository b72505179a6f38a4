// Package signature makes and checks the signatures of InstantAPI webhook events:
// the HMAC-SHA256 of the raw body, in hex. It needs neither Caddy nor an HTTP
// server.
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

// DefaultHeader is the request header that carries the signature unless the
// sender is known to use another one.
const DefaultHeader = "X-InstantAPI-Signature"

// Why a request is not authentic. The sender gets one and the same answer for
// all of them; the log says which it was.
var (
	// ErrMissing means that the request has no signature header.
	ErrMissing = errors.New("signature header is missing")

	// ErrRepeated means that the signature header is there more than
	// once: two readers could disagree about which one counts.
	ErrRepeated = errors.New("signature header is there more than once")

	// ErrMalformed means that the header does not hold 64 hex digits, alone or
	// behind "sha256=".
	ErrMalformed = errors.New("signature is not 64 hex digits")

	// ErrMismatch means that no secret yields this signature for
	// these bytes: another secret, or a body that was changed on its way.
	ErrMismatch = errors.New("signature matches no secret")

	// ErrNoSecret means that a [Verifier] was asked for without a secret, or
	// with an empty one. There is no "no secret, no check".
	ErrNoSecret = errors.New("a secret is required and must not be empty")
)

// Signature is a decoded HMAC-SHA256 digest as the sender claims it.
type Signature [sha256.Size]byte

// Parse decodes the values of a signature header. There must be
// exactly one, of 64 hex digits in either case, with an optional "sha256=" in
// front, behind which there may be spaces or tabs: some senders write them, and
// they make no digest pass that would not pass without. The error is one of
// [ErrMissing], [ErrRepeated] and [ErrMalformed].
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
	// One pool of keyed HMAC states a secret. hmac.New hashes the key into two
	// blocks and allocates six times; a state taken from here does neither.
	states []*sync.Pool
}

// keyed is an HMAC state with room for its digest.
type keyed struct {
	mac hash.Hash
	sum Signature
}

// NewVerifier returns a Verifier that accepts a signature made with any of the
// secrets. Several secrets are how one is rotated: the new one beside the old.
// The error is [ErrNoSecret].
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
// Every secret is tried and every comparison takes the same time, so that the
// time taken says nothing about how close a forgery came, nor which secret is
// the current one.
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
