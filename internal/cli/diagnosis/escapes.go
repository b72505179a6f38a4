package diagnosis

import (
	"bytes"
	"iter"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// escapes says what a library escapes in JSON strings, beyond what JSON demands:
// the quote, the backslash and the control characters.
type escapes struct {
	ascii      string // characters of ASCII that become \u00xx
	beyond     bool   // so do those beyond ASCII
	lines      bool   // so do U+2028 and U+2029, where JavaScript once ended a line
	slash      bool   // a slash becomes \/
	upper      bool   // the hex digits of those in ascii are A to F
	upperWider bool   // so are those of all others
	lossy      bool   // half a surrogate pair becomes U+FFFD
}

// apply rewrites the strings of a JSON text with these escapes. The rest of the
// text stays as it is.
func (e escapes) apply(json []byte) []byte { return mapTokens(json, e.appendString, nil) }

func (e escapes) appendString(dst, literal []byte) []byte {
	dst = append(dst, '"')
	for r := range characters(literal) {
		dst = e.appendCharacter(dst, r)
	}
	return append(dst, '"')
}

// quote returns a text as a JSON string.
func (e escapes) quote(text []byte) []byte {
	quoted := []byte{'"'}
	for _, r := range string(text) {
		quoted = e.appendCharacter(quoted, r)
	}
	return append(quoted, '"')
}

func (e escapes) appendCharacter(dst []byte, r rune) []byte {
	switch {
	case utf16.IsSurrogate(r):
		if e.lossy {
			return utf8.AppendRune(dst, utf8.RuneError)
		}
		return appendHex(dst, r, e.upperWider)
	case r >= utf8.RuneSelf:
		if e.beyond || e.lines && (r == '\u2028' || r == '\u2029') {
			return appendHex(dst, r, e.upperWider)
		}
		return utf8.AppendRune(dst, r)
	case strings.ContainsRune(e.ascii, r):
		return appendHex(dst, r, e.upper)
	case r == '"' || r == '\\' || r == '/' && e.slash:
		return append(dst, '\\', byte(r))
	case r >= ' ':
		return append(dst, byte(r))
	}
	if i := strings.IndexRune("\b\t\n\f\r", r); i >= 0 {
		return append(dst, '\\', "btnfr"[i])
	}
	return appendHex(dst, r, e.upperWider)
}

// appendHex appends \uxxxx, twice where a character takes a surrogate pair.
func appendHex(dst []byte, r rune, upper bool) []byte {
	if r > 0xFFFF {
		high, low := utf16.EncodeRune(r)
		return appendHex(appendHex(dst, high, upper), low, upper)
	}
	digits := "0123456789abcdef"
	if upper {
		digits = "0123456789ABCDEF"
	}
	return append(dst, '\\', 'u', digits[r>>12], digits[r>>8&15], digits[r>>4&15], digits[r&15])
}

// characters yields the characters of a JSON string. Half a surrogate pair is
// one, as in JavaScript and Python.
func characters(literal []byte) iter.Seq[rune] {
	rest := literal[1 : len(literal)-1]
	return func(yield func(rune) bool) {
		for len(rest) > 0 {
			r, size := utf8.DecodeRune(rest)
			if r == '\\' && len(rest) > 1 {
				r, size = unescape(rest)
			}
			rest = rest[size:]
			if !yield(r) {
				return
			}
		}
	}
}

// unescape reads the escape sequence that s begins with. A \u without its four
// digits, which is not JSON, is read as u.
func unescape(s []byte) (r rune, size int) {
	if i := strings.IndexByte("btnfr", s[1]); i >= 0 {
		return rune("\b\t\n\f\r"[i]), 2
	}
	if r = hexUnit(s); r < 0 {
		return rune(s[1]), 2
	}
	if pair := utf16.DecodeRune(r, hexUnit(s[6:])); pair != utf8.RuneError {
		return pair, 12
	}
	return r, 6
}

// hexUnit returns the xxxx of \uxxxx, -1 if s does not begin with that.
func hexUnit(s []byte) rune {
	if len(s) < 6 || s[0] != '\\' || s[1] != 'u' {
		return -1
	}
	unit, err := strconv.ParseUint(string(s[2:6]), 16, 16)
	if err != nil {
		return -1
	}
	return rune(unit)
}

// mapTokens rewrites the strings and numbers of valid JSON. A nil function leaves
// them as they are.
func mapTokens(json []byte, text, number func(dst, literal []byte) []byte) []byte {
	keep := func(dst, literal []byte) []byte { return append(dst, literal...) }
	if text == nil {
		text = keep
	}
	if number == nil {
		number = keep
	}
	out := make([]byte, 0, len(json)+len(json)/4)
	for i := 0; i < len(json); {
		end := i + 1
		switch c := json[i]; {
		case c == '"':
			end = endOfString(json, i)
			out = text(out, json[i:end])
		case c == '-' || '0' <= c && c <= '9':
			for end < len(json) && strings.IndexByte("0123456789+-.eE", json[end]) >= 0 {
				end++
			}
			out = number(out, json[i:end])
		default:
			out = append(out, c)
		}
		i = end
	}
	return out
}

func endOfString(json []byte, start int) int {
	for i := start + 1; i < len(json); i++ {
		switch json[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(json)
}

// throughEscapes applies a change to the characters beyond ASCII, also where JSON
// has them as \uxxxx.
func throughEscapes(b []byte, change func([]byte) []byte) []byte {
	raw := mapTokens(b, appendRaw, nil)
	if bytes.Equal(raw, b) {
		return change(b)
	}
	changed := change(raw)
	if changed == nil {
		return nil
	}
	upper := regexp.MustCompile(`\\u[0-9A-F]*[A-F]`).Match(b)
	var out []byte
	for _, r := range string(changed) {
		if r < utf8.RuneSelf {
			out = append(out, byte(r))
			continue
		}
		out = appendHex(out, r, upper)
	}
	return out
}

// appendRaw appends a JSON string with the characters beyond ASCII as they are.
// Other escapes stay.
func appendRaw(dst, literal []byte) []byte {
	for len(literal) > 0 {
		size := 1
		if literal[0] == '\\' && len(literal) > 1 {
			var r rune
			if r, size = unescape(literal); r >= utf8.RuneSelf && !utf16.IsSurrogate(r) {
				dst = utf8.AppendRune(dst, r)
				literal = literal[size:]
				continue
			}
		}
		dst = append(dst, literal[:size]...)
		literal = literal[size:]
	}
	return dst
}
