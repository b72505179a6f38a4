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
	theirWhiteSpace = "The signer reads a secret that has white space around it: a file's last newline, or a slip when it was copied."
	ourWhiteSpace   = "The secret that was given here has white space around it: a file's last newline, or a slip when it was copied."
	theirQuotes     = "The signer takes the quotes around the secret for a part of it, as Docker does in an --env-file."
	ourQuotes       = "The secret that was given here has quotes around it, as Docker leaves them in an --env-file."
	trimTheirs      = "Trim it where the signer reads it; printf %s writes a file without a newline."
	trimOurs        = "Trim it where this one comes from; printf %s writes a file without a newline."
	unquoteTheirs   = "Take the quotes away where the signer's secret comes from."
	unquoteOurs     = "Take the quotes away where this secret comes from."
	signerDecodes   = "The signer takes the secret for an encoded key, and decodes it."
	signerDoesNot   = "The signer uses the text of the secret, without decoding it."
	sameKey         = "The guard uses the secret as it is written; let the signer do the same, or give both a secret of plain letters and digits."
	wholeKey        = "The guard uses the secret as it is written: give it what the signer uses, or let the signer use the whole text."
)

// secretSuspects are what becomes of a secret that is copied, quoted, read from a
// file or decoded by one side only.
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
	{"without the name in front of it", withoutName, "What was given here is a whole line of an env file.", "Give what stands behind the = only."},
	{`with its \n and the like read as one character`, unescaped, `The signer reads \n in a secret as a newline, as some env files are read.`, "Use a secret of plain letters and digits."},
	{"with its percent signs decoded", percentDecoded, "One side has the secret from a URL, where it is percent-encoded.", "Decode it there, or use a secret of plain letters and digits."},
	{"without whsec_ in front", withoutPrefix(secretPrefix), "The signer leaves the prefix whsec_ out.", wholeKey},
	{"with whsec_ in front", prepending(secretPrefix), "The signer uses the secret with the prefix whsec_.", "Give the guard the whole secret, with whsec_."},
	{"decoded from the base64 behind whsec_", decodedBehindPrefix, "The signer follows Standard Webhooks: its key is what the base64 behind whsec_ means.", sameKey},
	{"decoded from hex", decodedHex, signerDecodes, sameKey},
	{"decoded from base64", func(b []byte) []byte { return decodedBase64(string(b)) }, signerDecodes, sameKey},
	{"encoded in base64", func(b []byte) []byte { return []byte(base64.StdEncoding.EncodeToString(b)) }, signerDoesNot, wholeKey},
	{"encoded in base64 without padding", func(b []byte) []byte { return []byte(base64.RawStdEncoding.EncodeToString(b)) }, signerDoesNot, wholeKey},
	{"encoded in URL-safe base64", func(b []byte) []byte { return []byte(base64.URLEncoding.EncodeToString(b)) }, signerDoesNot, wholeKey},
	{"encoded in base64 with whsec_ in front", func(b []byte) []byte { return []byte(secretPrefix + base64.StdEncoding.EncodeToString(b)) }, signerDoesNot, wholeKey},
	{"encoded in hex", func(b []byte) []byte { return []byte(hex.EncodeToString(b)) }, signerDoesNot, wholeKey},
	{"in lower case", changing(strings.ToLower), "The two sides write the secret's letters differently.", "Copy the secret once more."},
	{"in upper case", changing(strings.ToUpper), "The two sides write the secret's letters differently.", "Copy the secret once more."},
	{"with composed accents (Unicode NFC)", norm.NFC.Bytes, "The two sides write the secret's accents differently.", "Use a secret of plain letters and digits."},
	{"with decomposed accents (Unicode NFD)", norm.NFD.Bytes, "The two sides write the secret's accents differently.", "Use a secret of plain letters and digits."},
}

// noSecrets are what signers use whose secret is not set.
var noSecrets = []struct{ name, value, why string }{
	{"an empty secret", "", "The signer's secret is not set."},
	{"the word undefined for a secret", "undefined", "The signer's secret is not set: JavaScript makes this word of that."},
	{"the word null for a secret", "null", "The signer's secret is not set."},
	{"the word None for a secret", "None", "The signer's secret is not set: Python makes this word of that."},
}

const setSecret = "Set it where the signer runs, and look at the name of the variable that it is read from."

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

// isBlank also says so of what can't be seen, and is copied from web pages.
func isBlank(r rune) bool { return unicode.IsSpace(r) || unicode.Is(unicode.Cf, r) || r == 0 }

// unquoted removes the quotes, also of the kinds that word processors make.
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
