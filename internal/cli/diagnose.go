package cli

import (
	"encoding/base64"
	"fmt"
	"iter"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/instantapi/caddy-instantapi-verify/signature"
)

// diagnosis is the verdict on a signature.
type diagnosis struct {
	valid bool
	text  string // for people
}

// diagnose checks a signature and, where it is not right, looks for the reason
// by trying. There must be a secret. What it says does not help to make another
// signature: neither a digest nor a secret is in it.
func diagnose(body []byte, given string, secrets []candidate) diagnosis {
	sig, fault := readSignature(given)
	if fault == "" {
		if by, ok := signedBy(body, sig, secrets); ok {
			return diagnosis{true, fmt.Sprintf("valid: made with %s for these %d bytes", by, len(body))}
		}
		return diagnosis{false, fmt.Sprintf("invalid: %v for these %d bytes\n%s", signature.ErrMismatch, len(body), explain(body, sig, secrets))}
	}
	text := fmt.Sprintf("invalid: %v: %s", signature.ErrMalformed, fault)
	if sig == nil {
		return diagnosis{false, text}
	}
	if by, ok := signedBy(body, sig, secrets); ok {
		return diagnosis{false, fmt.Sprintf("%s\nApart from that it is right, made with %s for these bytes.", text, by)}
	}
	return diagnosis{false, text + "\nNor would it be right without that. " + explain(body, sig, secrets)}
}

// readSignature reads a signature as the guard does or, if that can't be done,
// as it may have been meant, and says what is wrong with it. It is nil where
// nothing can be made of it.
func readSignature(s string) (sig *signature.Signature, fault string) {
	if sig, err := signature.Parse([]string{s}); err == nil {
		return &sig, ""
	}
	bare := strings.Trim(s, " \t\r\n\"'")
	_, headerValue, _ := strings.Cut(bare, ":")
	_, afterPrefix, _ := strings.Cut(bare, "=")
	for _, meant := range []struct{ text, fault string }{
		{bare, "there are spaces, newlines or quotes around it"},
		{strings.TrimSpace(headerValue), "this is a whole header line, give its value only"},
		{afterPrefix, "only sha256= may stand in front of the digits"},
	} {
		if sig, err := signature.Parse([]string{meant.text}); err == nil {
			return &sig, meant.fault
		}
	}
	if bare == "" {
		return nil, "it is empty"
	}
	unpadded := strings.TrimRight(bare, "=")
	for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		if digest, err := encoding.DecodeString(unpadded); err == nil && len(digest) == len(signature.Signature{}) {
			return (*signature.Signature)(digest), "it is in base64, write it in hex"
		}
	}
	return nil, whyNotHex(strings.TrimPrefix(bare, "sha256="))
}

func whyNotHex(digits string) string {
	const hexDigits = "0123456789abcdefABCDEF"
	if rest := strings.TrimLeft(digits, hexDigits); rest != "" {
		return fmt.Sprintf("character %d, %q, is not a hex digit", len(digits)-len(rest)+1, []rune(rest)[0])
	}
	return fmt.Sprintf("there are %d digits", len(digits))
}

func signedBy(body []byte, sig *signature.Signature, secrets []candidate) (name string, ok bool) {
	values := make([]string, len(secrets))
	for i, c := range secrets {
		values[i] = c.secret
	}
	verifier, err := signature.NewVerifier(values...)
	if err != nil {
		return "", false
	}
	i, err := verifier.Verify(body, *sig)
	if err != nil {
		return "", false
	}
	return secrets[i].name, true
}

// isObject reports whether a body is one JSON object. Text in it may be whatever
// JSON.stringify writes.
func isObject(body []byte) bool {
	value := jsontext.Value(body)
	return value.Kind() == jsontext.KindBeginObject && value.IsValid(anyText, jsontext.AllowDuplicateNames(true))
}

// explain says what the signature would be right for. One change at a time is
// looked for, of the secret or of the body: all pairs of them would take minutes
// for a large body.
func explain(body []byte, sig *signature.Signature, secrets []candidate) string {
	variants := secretVariants(secrets)
	if by, ok := signedBy(body, sig, variants); ok {
		return fmt.Sprintf("It is right for these bytes, made with %s.\nWho signs and who verifies must read the secret in the same way.", by)
	}
	for _, family := range []struct {
		changes func([]byte) iter.Seq2[string, []byte]
		advice  string
	}{
		{textVariants, "Verify the bytes exactly as they arrived: a shell, an editor or a copy has changed them."},
		{jsonVariants, "Something has parsed the JSON and written it anew. Verify the bytes as they arrived, before anything parses them."},
	} {
		for name, variant := range family.changes(body) {
			if by, ok := signedBy(variant, sig, secrets); ok {
				return fmt.Sprintf("It is right for %s, made with %s.\n%s", name, by, family.advice)
			}
		}
	}
	const text = "It is the wrong secret, or the bytes were changed, and in none of the usual ways."
	if len(body) == 0 {
		return text + "\nThe body is empty: was it read before, or lost?"
	}
	if !isObject(body) {
		return text + "\nThe body is not one JSON object: was it cut, or is it something else?"
	}
	return text
}
