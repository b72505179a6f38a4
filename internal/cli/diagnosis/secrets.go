package diagnosis

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// secretPrefix is what some providers put in front of a secret's base64.
const secretPrefix = "whsec_"

const (
	theirWhiteSpace = "The signer's secret has white space around it, such as the newline at the end of a file."
	ourWhiteSpace   = "The secret given here has white space around it, such as the newline at the end of a file."
	theirQuotes     = "The signer treats the quotes around its secret as part of it, as Docker does with an --env-file."
	ourQuotes       = "The secret given here has quotes around it, as Docker leaves them in an --env-file."
	trimTheirs      = "Remove it where the signer's secret comes from; printf %s writes a file without a newline."
	trimOurs        = "Remove it where this secret comes from; printf %s writes a file without a newline."
	unquoteTheirs   = "Remove them where the signer's secret comes from."
	unquoteOurs     = "Remove them where this secret comes from."
	signerDecodes   = "The signer decodes the secret and uses the result."
	signerDoesNot   = "The signer uses the encoded text, without decoding it."
	sameKey         = "The guard uses the secret as it is written, so let the signer do the same."
	wholeKey        = "The guard uses the secret as it is written, so give both sides the same text."
)

// secretSuspects are changes of a secret: it was copied, quoted, read from a file,
// or decoded by one side only.
var secretSuspects = []suspect{
	{"with a newline at its end", appending("\n"), theirWhiteSpace, trimTheirs},
	{"with CR LF at its end", appending("\r\n"), theirWhiteSpace, trimTheirs},
	{"with a space at its end", appending(" "), theirWhiteSpace, trimTheirs},
	{"with a space in front", prepending(" "), theirWhiteSpace, trimTheirs},
	{"with a tab at its end", appending("\t"), theirWhiteSpace, trimTheirs},
	{"with a byte order mark in front", prepending(mark), "The signer's file with the secret begins with a byte order mark.", "Save that file as UTF-8 without one."},
	{"without the byte order mark in front", withoutPrefix(mark), "The file that this secret comes from begins with a byte order mark.", "Save that file as UTF-8 without one."},
	{"without the white space around it", changing(func(s string) string { return strings.TrimFunc(s, isBlank) }), ourWhiteSpace, trimOurs},
	{"in double quotes", surrounding(`"`), theirQuotes, unquoteTheirs},
	{"in single quotes", surrounding("'"), theirQuotes, unquoteTheirs},
	{"in back quotes", surrounding("`"), theirQuotes, unquoteTheirs},
	{"without the quotes around it", changing(unquoted), ourQuotes, unquoteOurs},
	{"without the name in front of it", withoutName, "The secret given here is a whole line of an env file.", "Give the part after the = only."},
	{`with its \n and the like read as one character`, unescaped, `The signer reads \n in its secret as a newline, as some readers of env files do.`, "Use a secret of plain letters and digits."},
	{"with its percent signs decoded", percentDecoded, "The secret given here is percent-encoded, as in a URL.", "Decode it, or use a secret of plain letters and digits."},
	{"without whsec_ in front", withoutPrefix(secretPrefix), "The signer leaves out the prefix whsec_.", wholeKey},
	{"with whsec_ in front", prepending(secretPrefix), "The signer uses the secret with the prefix whsec_.", "Give the whole secret, with whsec_."},
	{"decoded from the base64 behind whsec_", decodedBehindPrefix, "The signer follows Standard Webhooks, where the key is the decoded base64 behind whsec_.", sameKey},
	{"decoded from hex", decodedHex, signerDecodes, sameKey},
	{"decoded from base64", func(b []byte) []byte { return decodedBase64(string(b)) }, signerDecodes, sameKey},
	{"encoded in base64", func(b []byte) []byte { return []byte(base64.StdEncoding.EncodeToString(b)) }, signerDoesNot, wholeKey},
	{"encoded in base64 without padding", func(b []byte) []byte { return []byte(base64.RawStdEncoding.EncodeToString(b)) }, signerDoesNot, wholeKey},
	{"encoded in URL-safe base64", func(b []byte) []byte { return []byte(base64.URLEncoding.EncodeToString(b)) }, signerDoesNot, wholeKey},
	{"encoded in base64 with whsec_ in front", func(b []byte) []byte { return []byte(secretPrefix + base64.StdEncoding.EncodeToString(b)) }, signerDoesNot, wholeKey},
	{"encoded in hex", func(b []byte) []byte { return []byte(hex.EncodeToString(b)) }, signerDoesNot, wholeKey},
	{"in lower case", changing(strings.ToLower), "The two sides write the secret's letters differently.", "Copy the secret again."},
	{"in upper case", changing(strings.ToUpper), "The two sides write the secret's letters differently.", "Copy the secret again."},
	{"with composed accents (Unicode NFC)", norm.NFC.Bytes, "The two sides write the secret's accents differently.", "Use a secret of plain letters and digits."},
	{"with decomposed accents (Unicode NFD)", norm.NFD.Bytes, "The two sides write the secret's accents differently.", "Use a secret of plain letters and digits."},
}

// noSecrets are what a signer uses if its secret is not set.
var noSecrets = []struct{ name, value, why string }{
	{"an empty secret", "", "The signer's secret is not set."},
	{"the word undefined for a secret", "undefined", "The signer's secret is not set, which JavaScript turns into this word."},
	{"the word null for a secret", "null", "The signer's secret is not set."},
	{"the word None for a secret", "None", "The signer's secret is not set, which Python turns into this word."},
}

const setSecret = "Set it where the signer runs, and check the name of the variable that it comes from."

func appending(s string) func([]byte) []byte {
	return func(b []byte) []byte { return append(bytes.Clone(b), s...) }
}

func prepending(s string) func([]byte) []byte {
	return func(b []byte) []byte { return append([]byte(s), b...) }
}

func surrounding(s string) func([]byte) []byte {
	return func(b []byte) []byte { return []byte(s + string(b) + s) }
}

func withoutPrefix(prefix string) func([]byte) []byte {
	return func(b []byte) []byte {
		rest, found := bytes.CutPrefix(b, []byte(prefix))
		if !found {
			return nil
		}
		return rest
	}
}

func changing(change func(string) string) func([]byte) []byte {
	return func(b []byte) []byte { return []byte(change(string(b))) }
}

// isBlank also reports invisible characters, which are copied from web pages.
func isBlank(r rune) bool { return unicode.IsSpace(r) || unicode.Is(unicode.Cf, r) || r == 0 }

// unquoted removes quotes, including those of word processors.
func unquoted(s string) string { return strings.Trim(s, "\"'`“”‘’„«»") }

var assignment = regexp.MustCompile(`^(?:export\s+)?[A-Za-z_][A-Za-z0-9_]*\s*[=:]\s*(.+)$`)

func withoutName(b []byte) []byte {
	match := assignment.FindSubmatch(bytes.TrimSpace(b))
	if match == nil {
		return nil
	}
	return []byte(unquoted(string(match[1])))
}

func unescaped(b []byte) []byte {
	text, err := strconv.Unquote(`"` + string(b) + `"`)
	if err != nil {
		return nil
	}
	return []byte(text)
}

func percentDecoded(b []byte) []byte {
	text, err := url.PathUnescape(string(b))
	if err != nil {
		return nil
	}
	return []byte(text)
}

func decodedBehindPrefix(b []byte) []byte {
	rest := withoutPrefix(secretPrefix)(b)
	if rest == nil {
		return nil
	}
	return decodedBase64(string(rest))
}

func decodedHex(b []byte) []byte {
	decoded, err := hex.DecodeString(string(b))
	if err != nil {
		return nil
	}
	return decoded
}
