package diagnosis

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha3"
	"crypto/sha512"
	"encoding/hex"
	"hash"
	"slices"

	"github.com/instantapi/caddy-instantapi-verify/signature"
)

// rules are what some signers do instead of HMAC-SHA256.
var rules = []struct {
	name string
	sum  func(secret, body []byte) []byte
}{
	{"a SHA-256 of these bytes, without a secret", func(_, b []byte) []byte { return hashed(b) }},
	{"a SHA-256 of the secret followed by these bytes, without HMAC", func(s, b []byte) []byte { return hashed(slices.Concat(s, b)) }},
	{"a SHA-256 of these bytes followed by the secret, without HMAC", func(s, b []byte) []byte { return hashed(slices.Concat(b, s)) }},
	{"an HMAC-SHA256 whose key is the body and whose message is the secret", func(s, b []byte) []byte { return sum(sha256.New, b, s) }},
	{"an HMAC-SHA256 of the body's SHA-256, not of the body", func(s, b []byte) []byte { return sum(sha256.New, s, hashed(b)) }},
	{"an HMAC-SHA256 of the hex digits of the body's SHA-256, not of the body", func(s, b []byte) []byte {
		return sum(sha256.New, s, []byte(hex.EncodeToString(hashed(b))))
	}},
	{"an HMAC-SHA512/256", func(s, b []byte) []byte { return sum(sha512.New512_256, s, b) }},
	{"the first half of an HMAC-SHA512", func(s, b []byte) []byte { return sum(sha512.New, s, b)[:sha256.Size] }},
	{"an HMAC-SHA3-256", func(s, b []byte) []byte { return sum(func() hash.Hash { return sha3.New256() }, s, b) }},
}

func hashed(b []byte) []byte {
	digest := sha256.Sum256(b)
	return digest[:]
}

func sum(algorithm func() hash.Hash, key, message []byte) []byte {
	mac := hmac.New(algorithm, key)
	mac.Write(message)
	return mac.Sum(nil)
}

// byAnotherRule says by which other rule a signature was made.
func byAnotherRule(body []byte, sig signature.Signature, secrets []Secret) (text string, ok bool) {
	for _, rule := range rules {
		for _, secret := range secrets {
			if !bytes.Equal(rule.sum([]byte(secret.Value), body), sig[:]) {
				continue
			}
			which := ""
			if len(secrets) > 1 {
				which = " (tried with " + secret.Name + ")"
			}
			return "It is " + rule.name + which + ".\n" +
				"Make an HMAC-SHA256 of the body with the secret as its key; every language has a library for it.", true
		}
	}
	return "", false
}
