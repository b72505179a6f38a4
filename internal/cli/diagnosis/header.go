package diagnosis

import (
	"encoding/hex"
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"github.com/instantapi/caddy-instantapi-verify/signature"
)

// readHeader parses a signature as the guard does. If that fails, it returns what
// is wrong and the signature that may be meant, nil if there is none.
func readHeader(s string) (sig *signature.Signature, fault string) {
	if sig, err := signature.Parse([]string{s}); err == nil {
		return &sig, ""
	}
	bare := strings.Trim(s, " \t\r\n\"'")
	if bare == "" {
		return nil, "it is empty"
	}
	for _, m := range meanings {
		if sig := m.read(bare); sig != nil {
			return sig, m.fault
		}
	}
	return nil, whyNotHex(strings.TrimPrefix(bare, "sha256="))
}

// meanings are ways to read a malformed signature.
var meanings = []struct {
	fault string
	read  func(bare string) *signature.Signature
}{
	{"there are spaces, newlines or quotes around it", parse},
	{"this is a whole header line; give only its value", func(s string) *signature.Signature {
		_, value, _ := strings.Cut(s, ":")
		return parse(strings.TrimSpace(value))
	}},
	{"only sha256= may be in front of the digits", func(s string) *signature.Signature {
		_, digits, _ := strings.Cut(s, "=")
		return parse(strings.TrimSpace(digits))
	}},
	{"0x must not be in front of the digits", func(s string) *signature.Signature {
		return parse(strings.TrimLeft(s, `\0xX`))
	}},
	{"there are dashes, colons or spaces between the digits, as .NET's BitConverter writes them", func(s string) *signature.Signature {
		return parse(strings.NewReplacer("-", "", ":", "", " ", "").Replace(s))
	}},
	{"it is in base64; write it in hex", fromBase64},
	{"it is in base64 with percent signs; write it in hex", func(s string) *signature.Signature {
		text, err := url.PathUnescape(s)
		if err != nil {
			return nil
		}
		return fromBase64(text)
	}},
	{"it is in base64 behind something else; write only the digest, in hex", func(s string) *signature.Signature {
		return fromBase64(s[strings.IndexAny(s, ",=: ")+1:])
	}},
	{"it is the base64 of the hex digits; write the digits", func(s string) *signature.Signature {
		return parse(string(decodedBase64(s)))
	}},
	{"it is the hex of the hex digits; write the digits", func(s string) *signature.Signature {
		digits, err := hex.DecodeString(s)
		if err != nil {
			return nil
		}
		return parse(string(digits))
	}},
	{"it contains more than the digits; give one signature and nothing else", func(s string) *signature.Signature {
		return parse(strings.TrimSpace(loneDigits.FindString(s)))
	}},
}

// loneDigits are 64 hex digits that are not part of a longer word.
var loneDigits = regexp.MustCompile(`\b[0-9a-fA-F]{64}\b`)

func parse(value string) *signature.Signature {
	sig, err := signature.Parse([]string{value})
	if err != nil {
		return nil
	}
	return &sig
}

func fromBase64(s string) *signature.Signature {
	digest := decodedBase64(s)
	if len(digest) != len(signature.Signature{}) {
		return nil
	}
	return (*signature.Signature)(digest)
}

// otherDigests are other algorithms by the number of their hex digits.
var otherDigests = map[int]string{32: "MD5", 40: "SHA-1", 56: "SHA-224", 96: "SHA-384", 128: "SHA-512"}

func whyNotHex(digits string) string {
	const hexDigits = "0123456789abcdefABCDEF"
	if rest := strings.TrimLeft(digits, hexDigits); rest != "" {
		return fmt.Sprintf("character %d, %q, is not a hex digit", len(digits)-len(rest)+1, []rune(rest)[0])
	}
	if other, ok := otherDigests[len(digits)]; ok {
		return fmt.Sprintf("there are %d digits, as %s has them; sign with HMAC-SHA256", len(digits), other)
	}
	return fmt.Sprintf("there are %d digits", len(digits))
}
