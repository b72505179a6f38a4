package cli

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"iter"
	"slices"
	"strings"
	"unicode/utf16"

	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/text/encoding/unicode"
	"golang.org/x/text/transform"
)

// secretVariants returns what becomes of secrets that are copied, quoted, read
// from a file or decoded by one side only.
func secretVariants(secrets []candidate) []candidate {
	var variants []candidate
	for _, c := range secrets {
		add := func(how, secret string) {
			if secret != "" {
				variants = append(variants, candidate{c.name + " " + how, secret})
			}
		}
		add("with a newline at its end", c.secret+"\n")
		add("with CR LF at its end", c.secret+"\r\n")
		add("with a space at its end", c.secret+" ")
		add("with a space in front", " "+c.secret)
		add("without the white space around it", strings.TrimSpace(c.secret))
		add("in double quotes", `"`+c.secret+`"`)
		add("in single quotes", "'"+c.secret+"'")
		add("without the quotes around it", strings.Trim(c.secret, `"'`))
		if decoded, err := hex.DecodeString(c.secret); err == nil {
			add("decoded from hex", string(decoded))
		}
		if decoded, err := base64.StdEncoding.DecodeString(c.secret); err == nil {
			add("decoded from base64", string(decoded))
		}
	}
	return variants
}

// textVariants yields what a body may have been before a shell, an editor or a
// copy had it, with a name for people.
func textVariants(body []byte) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		mark := []byte("\uFEFF")
		for _, change := range []struct {
			name  string
			apply func([]byte) []byte
		}{
			{"with a newline at the end", func(b []byte) []byte { return append(withoutEnd(b), "\n"...) }},
			{"without white space at the end", withoutEnd},
			{"with CR LF at the end", func(b []byte) []byte { return append(withoutEnd(b), "\r\n"...) }},
			{"with LF for CR LF", inLF},
			{"with CR LF for LF", func(b []byte) []byte { return bytes.ReplaceAll(inLF(b), []byte("\n"), []byte("\r\n")) }},
			{"in UTF-8 without a byte order mark", inUTF8},
			// PowerShell's ">" adds both.
			{"in UTF-8 without a byte order mark, without white space at the end", func(b []byte) []byte { return withoutEnd(inUTF8(b)) }},
			{"with a byte order mark in front", func(b []byte) []byte { return slices.Concat(mark, b) }},
		} {
			if !yield("these bytes "+change.name, change.apply(body)) {
				return
			}
		}
	}
}

// withoutEnd returns a slice that may be appended to.
func withoutEnd(b []byte) []byte { return slices.Clip(bytes.TrimRight(b, " \t\r\n")) }

func inLF(b []byte) []byte { return bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")) }

// inUTF8 turns UTF-16 into UTF-8, and removes the byte order mark of either.
func inUTF8(b []byte) []byte {
	decoded, _, err := transform.Bytes(unicode.BOMOverride(transform.Nop), b)
	if err != nil {
		return b
	}
	return decoded
}

// formats are how libraries write JSON: white space, order, numbers, and what
// they escape in strings.
var formats = []struct {
	name    string
	options []jsontext.Options
	apply   func([]byte) []byte // to what the options make
}{
	{"without white space", []jsontext.Options{jsontext.PreserveRawStrings(true)}, nil},
	{"as JavaScript writes it", numbers, nil},
	{"as JavaScript writes it, indented by two spaces", slices.Concat(numbers, indented("  ")), nil},
	{"as Python writes it", spaced, inASCII},
	{"as Python writes it, with sorted keys", append(spaced, sorted), inASCII},
	{"as Python writes it, with ensure_ascii=False", spaced, nil},
	{"as Python writes it, without white space", nil, inASCII},
	{"as Python writes it, without white space, with sorted keys", []jsontext.Options{sorted}, inASCII},
	{"as Go writes it", append(numbers, sorted, jsontext.EscapeForHTML(true), jsontext.EscapeForJS(true)), nil},
	{"as PHP writes it", nil, inPHP},
	{"without white space and needless escapes", nil, nil},
	{"without white space and needless escapes, with sorted keys", []jsontext.Options{sorted}, nil},
	{"indented by two spaces", indented("  "), nil},
	{"indented by four spaces", indented("    "), nil},
	{"indented by tabs", indented("\t"), nil},
}

var (
	numbers = slices.Clip([]jsontext.Options{jsontext.CanonicalizeRawInts(true), jsontext.CanonicalizeRawFloats(true)})
	spaced  = slices.Clip([]jsontext.Options{jsontext.SpaceAfterComma(true), jsontext.SpaceAfterColon(true)})
	sorted  = jsontext.ReorderRawObjects(true)
)

func indented(by string) []jsontext.Options {
	return []jsontext.Options{jsontext.Multiline(true), jsontext.SpaceAfterColon(true), jsontext.WithIndent(by)}
}

func inASCII(b []byte) []byte {
	out := make([]byte, 0, len(b))
	var units []uint16
	for _, r := range string(b) {
		if r < 0x7f {
			out = append(out, byte(r))
			continue
		}
		units = utf16.AppendRune(units[:0], r)
		for _, unit := range units {
			out = fmt.Appendf(out, `\u%04x`, unit)
		}
	}
	return out
}

// inPHP may do that because JSON has no / but in strings.
func inPHP(b []byte) []byte { return bytes.ReplaceAll(inASCII(b), []byte("/"), []byte(`\/`)) }

// jsonVariants yields the body as libraries would write its JSON, with a name for
// people; none if it is no JSON.
func jsonVariants(body []byte) iter.Seq2[string, []byte] {
	body = inUTF8(body)
	return func(yield func(string, []byte) bool) {
		for _, format := range formats {
			options := append([]jsontext.Options{jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)}, format.options...)
			written, err := jsontext.AppendFormat(nil, body, options...)
			if err != nil {
				return
			}
			if format.apply != nil {
				written = format.apply(written)
			}
			name := "the same JSON " + format.name
			if !yield(name, written) || !yield(name+", with a newline at the end", append(written, '\n')) {
				return
			}
		}
	}
}
