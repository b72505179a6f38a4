package diagnosis

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"encoding/base64"
	"encoding/hex"
	"io"
	"net/url"

	"github.com/go-json-experiment/json/jsontext"
)

// maxUnpacked bounds what is made of a compressed body, in bytes.
const maxUnpacked = 64 << 20

const (
	signAsSent   = "The signature must be of the body as it is sent: compress first, then sign the result."
	beforeUnpack = "The guard verifies what arrives: give this command the body before it is unpacked."
	decodeFirst  = "Decode it, and verify the result."
)

// wrappings are compression and other encodings of a whole body.
var wrappings = []suspect{
	{
		"unpacked with gzip",
		func(b []byte) []byte {
			return unpacked(b, func(r io.Reader) (io.ReadCloser, error) { return gzip.NewReader(r) })
		},
		"The sender signed the body before it compressed it with gzip.",
		signAsSent,
	}, {
		"unpacked with zlib (Content-Encoding: deflate)",
		func(b []byte) []byte { return unpacked(b, zlib.NewReader) },
		"The sender signed the body before it compressed it with zlib.",
		signAsSent,
	}, {
		"unpacked with raw deflate (Content-Encoding: deflate)",
		func(b []byte) []byte {
			return unpacked(b, func(r io.Reader) (io.ReadCloser, error) { return flate.NewReader(r), nil })
		},
		"The sender signed the body before it compressed it with deflate.",
		signAsSent,
	}, {
		"packed with gzip, as Go does it",
		func(b []byte) []byte {
			return packed(b, func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) })
		},
		"The sender compressed the body with gzip and signed the result, and something has unpacked it since.",
		beforeUnpack,
	}, {
		"packed with zlib, as Go does it",
		func(b []byte) []byte {
			return packed(b, func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) })
		},
		"The sender compressed the body with zlib and signed the result, and something has unpacked it since.",
		beforeUnpack,
	}, {
		"decoded from base64",
		func(b []byte) []byte { return decodedBase64(string(bytes.TrimSpace(b))) },
		"Something has encoded the body, as API gateways in front of functions do (isBase64Encoded).",
		decodeFirst,
	}, {
		"encoded in base64",
		func(b []byte) []byte { return []byte(base64.StdEncoding.EncodeToString(b)) },
		"The signer has signed the base64 of the body.",
		"Sign the body itself.",
	}, {
		"decoded from hex",
		func(b []byte) []byte {
			decoded, err := hex.DecodeString(string(bytes.TrimSpace(b)))
			if err != nil || len(decoded) == 0 {
				return nil
			}
			return decoded
		},
		"Something has encoded the body in hex, as databases show bytes.",
		decodeFirst,
	}, {
		"taken out of the JSON string that they are",
		func(b []byte) []byte {
			b = bytes.TrimSpace(b)
			if jsontext.Value(b).Kind() != jsontext.KindString || !isJSON(b) {
				return nil
			}
			text, _ := jsontext.AppendUnquote(nil, b)
			return text
		},
		"Something has encoded the JSON twice: it is a string in other JSON.",
		"Encode it once, or verify the bytes before the second time.",
	}, {
		"as a JSON string",
		func(b []byte) []byte { return escapes{}.quote(b) },
		"The signer has signed the JSON written as a string into other JSON.",
		"Sign the text that is sent.",
	}, {
		"decoded from a form",
		func(b []byte) []byte {
			form, err := url.ParseQuery(string(bytes.TrimSpace(b)))
			if err != nil || len(form) != 1 {
				return nil
			}
			for name, values := range form {
				if values[0] == "" {
					return []byte(name)
				}
				return []byte(values[0])
			}
			return nil
		},
		"Something has sent the body as a form, with its characters percent-encoded.",
		"Send it as application/json (curl: --data-binary), or verify the bytes before that.",
	},
}

func unpacked(b []byte, open func(io.Reader) (io.ReadCloser, error)) []byte {
	r, err := open(bytes.NewReader(b))
	if err != nil {
		return nil
	}
	out, err := io.ReadAll(io.LimitReader(r, maxUnpacked+1))
	if err != nil || len(out) == 0 || len(out) > maxUnpacked {
		return nil
	}
	return out
}

func packed(b []byte, into func(io.Writer) io.WriteCloser) []byte {
	var out bytes.Buffer
	w := into(&out)
	if _, err := w.Write(b); err != nil {
		return nil
	}
	if err := w.Close(); err != nil {
		return nil
	}
	return out.Bytes()
}

// decodedBase64 decodes standard and URL-safe base64, padded or not; nil if it is
// neither.
func decodedBase64(s string) []byte {
	for len(s) > 0 && s[len(s)-1] == '=' {
		s = s[:len(s)-1]
	}
	for _, alphabet := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		if decoded, err := alphabet.DecodeString(s); err == nil && len(decoded) > 0 {
			return decoded
		}
	}
	return nil
}
