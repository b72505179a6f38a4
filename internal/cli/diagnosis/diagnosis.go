// Package diagnosis checks a signature and explains a wrong one: it tries
// changes that bodies often suffer on their way and secrets when they are
// copied, and says with which of them the signature would be right.
package diagnosis

import (
	"fmt"
	"hash/maphash"
	"slices"
	"strings"

	"github.com/instantapi/caddy-instantapi-verify/signature"
)

// Secret is a webhook secret that may have made a signature.
type Secret struct {
	Name  string // for people, like "the secret"; not secret itself
	Value string // not empty
}

// Verdict is the result of a check.
type Verdict struct {
	Valid bool
	Text  string // for people; one or more lines without a newline at the end
}

// Of checks the value of a signature header as the guard does, and explains why it
// is wrong. There must be at least one secret.
//
// The verdict helps nobody make another signature: it contains no digest, no
// secret and no part of the body.
func Of(body []byte, header string, secrets []Secret) Verdict {
	sig, fault := readHeader(header)
	if fault == "" {
		if by, ok := signedBy(body, *sig, secrets); ok {
			return Verdict{true, fmt.Sprintf("valid: made with %s for these %d bytes", by, len(body))}
		}
		return Verdict{false, fmt.Sprintf("invalid: %v for these %d bytes\n%s", signature.ErrMismatch, len(body), explain(body, *sig, secrets))}
	}
	text := fmt.Sprintf("invalid: %v: %s", signature.ErrMalformed, fault)
	if sig == nil {
		return Verdict{false, text}
	}
	if by, ok := signedBy(body, *sig, secrets); ok {
		return Verdict{false, fmt.Sprintf("%s\nApart from that it is right: it was made with %s for these bytes.", text, by)}
	}
	return Verdict{false, text + "\nEven without that it would be wrong. " + explain(body, *sig, secrets)}
}

// signedBy checks a signature with the guard's own rule.
func signedBy(body []byte, sig signature.Signature, secrets []Secret) (name string, ok bool) {
	values := make([]string, len(secrets))
	for i, secret := range secrets {
		values[i] = secret.Value
	}
	verifier, err := signature.NewVerifier(values...)
	if err != nil {
		return "", false
	}
	i, err := verifier.Verify(body, sig)
	if err != nil {
		return "", false
	}
	return secrets[i].Name, true
}

// explain says for what a signature would be right, and what to do.
func explain(body []byte, sig signature.Signature, secrets []Secret) string {
	s := &search{sig: sig, tried: make(map[uint64]bool), seed: maphash.MakeSeed()}
	for _, secret := range secrets {
		s.given = append(s.given, newKey(secret.Name, []byte(secret.Value)))
	}
	s.others = changedKeys(s.given)
	for _, no := range noSecrets {
		s.others = append(s.others, newKey(no.name, []byte(no.value), suspect{why: no.why, remedy: setSecret}))
	}
	if found, ok := s.find(body); ok {
		return found.text()
	}
	if text, ok := byAnotherRule(body, sig, secrets); ok {
		return text
	}
	lines := []string{"The secret is wrong, or the bytes were changed in an unusual way."}
	return strings.Join(append(lines, hints(body)...), "\n")
}

// text says in three lines what was found, why it happened, and what to do.
func (f finding) text() string {
	subject := "these bytes"
	if len(f.names) > 0 {
		subject = f.describe()
	}
	var whys, remedies []string
	for _, cause := range append(slices.Clip(f.causes), f.key.causes...) {
		if !slices.Contains(whys, cause.why) {
			whys = append(whys, cause.why)
		}
		if !slices.Contains(remedies, cause.remedy) {
			remedies = append(remedies, cause.remedy)
		}
	}
	return fmt.Sprintf("It is right for %s, made with %s.\n%s\n%s",
		subject, f.key.name, strings.Join(whys, " "), strings.Join(remedies, " "))
}
