package instantapi

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/bits"

	"github.com/go-json-experiment/json/jsontext"
)

// errNotAnObject means that a verified body is not one JSON object.
var errNotAnObject = errors.New("body is not a JSON object")

// maxNesting is how deep arrays and objects may lie in each other; the same as
// encoding/json's.
const maxNesting = 10_000

// scanEvent checks that body is exactly one JSON object (RFC 8259) and returns
// the values of its top-level members called names, in the order of names, nil
// where there is none. Everything else is checked but not decoded. The values
// point into body. The error is [errNotAnObject].
//
// Senders and backends disagree about what this package does not need to know,
// so the scan takes no side: of a repeated name the last one counts, as in
// JavaScript and Python; text may hold invalid UTF-8, and lone surrogates, which
// JSON.stringify writes when a text was cut in the middle of an emoji.
//
// It is our own, because it is the larger half of what a body of 64 KiB costs
// beside its HMAC (33 µs): there it takes 14 µs, jsontext 44, encoding/json's
// Valid 138. Nothing in it calls itself, so that a body of open brackets takes
// no stack. encoding/json is its judge in FuzzScanEvent.
func scanEvent(body []byte, names []string) ([]jsontext.Value, error) {
	s := scanner{body: body}
	values := make([]jsontext.Value, len(names))
	if !s.skip('{') || !s.members(names, values) {
		return nil, errNotAnObject
	}
	if s.space(); s.at < len(body) {
		return nil, errNotAnObject
	}
	return values, nil
}

// scanner reads JSON. Its methods go on behind what they have read, and return
// false where something else is there.
type scanner struct {
	body []byte
	at   int
}

// members reads the rest of an object, and keeps the values of the members that
// names has.
func (s *scanner) members(names []string, values []jsontext.Value) bool {
	if s.skip('}') {
		return true
	}
	for {
		name, ok := s.name()
		if !ok {
			return false
		}
		s.space()
		start := s.at
		if !s.value() {
			return false
		}
		for i := range names {
			if isName(name, names[i]) {
				values[i] = s.body[start:s.at]
			}
		}
		if !s.skip(',') {
			return s.skip('}')
		}
	}
}

// isName reports whether a member's name, in its quotes, means the name that is
// wanted.
func isName(quoted []byte, want string) bool {
	plain := quoted[1 : len(quoted)-1]
	if string(plain) == want {
		return true
	}
	if bytes.IndexByte(plain, '\\') < 0 {
		return false
	}
	unquoted, err := jsontext.AppendUnquote(nil, quoted)
	return err == nil && string(unquoted) == want
}

// value reads a value of any kind, with all that is in it.
func (s *scanner) value() bool {
	var room [64]byte
	ends := room[:0] // of the arrays and objects that are open
	for {
		s.space()
		if s.at == len(s.body) {
			return false
		}
		switch s.body[s.at] {
		default:
			if !s.scalar() {
				return false
			}
		case '{', '[':
			ends = append(ends, s.body[s.at]+('}'-'{')) // as far from '[' to ']'
			s.at++
			if len(ends) == maxNesting { // one more is around it
				return false
			}
			if s.space(); s.peek(ends[len(ends)-1]) {
				break // it is empty
			}
			if ends[len(ends)-1] == ']' {
				continue
			}
			if _, ok := s.name(); !ok {
				return false
			}
			continue
		}
		// A value has ended, or is about to: what comes next?
		for len(ends) > 0 && s.skip(ends[len(ends)-1]) {
			ends = ends[:len(ends)-1]
		}
		if len(ends) == 0 {
			return true
		}
		if !s.skip(',') {
			return false
		}
		if ends[len(ends)-1] == '}' {
			if _, ok := s.name(); !ok {
				return false
			}
		}
	}
}

// name reads the name of an object's member and the colon, and returns the name
// in its quotes.
func (s *scanner) name() (quoted []byte, ok bool) {
	s.space()
	start := s.at
	if !s.peek('"') || !s.text() {
		return nil, false
	}
	end := s.at
	return s.body[start:end], s.skip(':')
}

// scalar reads a value that has no others in it.
func (s *scanner) scalar() bool {
	switch s.body[s.at] {
	case '"':
		return s.text()
	case 't':
		return s.word("true")
	case 'f':
		return s.word("false")
	case 'n':
		return s.word("null")
	default:
		return s.number()
	}
}

func (s *scanner) word(word string) bool {
	if !bytes.HasPrefix(s.body[s.at:], []byte(word)) {
		return false
	}
	s.at += len(word)
	return true
}

func (s *scanner) number() bool {
	if s.peek('-') {
		s.at++
	}
	if s.peek('0') {
		s.at++
	} else if !s.digits() {
		return false
	}
	if s.peek('.') {
		s.at++
		if !s.digits() {
			return false
		}
	}
	if s.peek('e') || s.peek('E') {
		s.at++
		if s.peek('+') || s.peek('-') {
			s.at++
		}
		return s.digits()
	}
	return true
}

// digits reads one digit or more.
func (s *scanner) digits() bool {
	start := s.at
	for s.at < len(s.body) && '0' <= s.body[s.at] && s.body[s.at] <= '9' {
		s.at++
	}
	return s.at > start
}

// text reads a string, from quote to quote.
func (s *scanner) text() bool {
	s.at++
	for {
		s.at += plainPrefix(s.body[s.at:])
		switch {
		case s.peek('"'):
			s.at++
			return true
		case !s.peek('\\') || !s.escape(): // the end, or a control character
			return false
		}
	}
}

// escape reads a backslash and what belongs to it.
func (s *scanner) escape() bool {
	rest := s.body[s.at+1:]
	switch {
	case len(rest) == 0:
		return false
	case rest[0] != 'u':
		s.at += 2
		return bytes.IndexByte([]byte(`"\/bfnrt`), rest[0]) >= 0
	case len(rest) < 5:
		return false
	}
	for _, digit := range rest[1:5] {
		if !('0' <= digit && digit <= '9' || 'a' <= digit|0x20 && digit|0x20 <= 'f') {
			return false
		}
	}
	s.at += 6
	return true
}

// plainPrefix returns how many bytes come before the first one that is a quote, a
// backslash or a control character, which a string does not have in it. It looks
// at eight at a time: in each byte of a sum below, the highest bit says whether
// that byte is zero or, for control characters, less than a space. (The bits
// behind the first match can be wrong; they are not asked.)
func plainPrefix(b []byte) int {
	const (
		each  = 0x0101010101010101
		highs = 0x80 * each
	)
	n := 0
	for ; n+8 <= len(b); n += 8 {
		word := binary.LittleEndian.Uint64(b[n:])
		quote, backslash := word^'"'*each, word^'\\'*each
		special := (quote-each)&^quote | (backslash-each)&^backslash | (word-' '*each)&^word
		if special &= highs; special != 0 {
			return n + bits.TrailingZeros64(special)/8
		}
	}
	for n < len(b) && b[n] >= ' ' && b[n] != '"' && b[n] != '\\' {
		n++
	}
	return n
}

func (s *scanner) space() {
	for s.at < len(s.body) {
		switch s.body[s.at] {
		case ' ', '\t', '\n', '\r':
			s.at++
		default:
			return
		}
	}
}

// peek reports whether this byte is next.
func (s *scanner) peek(b byte) bool { return s.at < len(s.body) && s.body[s.at] == b }

// skip reads white space and this byte.
func (s *scanner) skip(b byte) bool {
	s.space()
	if !s.peek(b) {
		return false
	}
	s.at++
	return true
}

// text returns what a value says: a string's characters, else the JSON itself.
// Missing, null and "" say nothing.
func text(value jsontext.Value) string {
	var room [64]byte
	said, _ := appendText(room[:0], value)
	return string(said)
}

// appendText appends what a value says. exact is false where a string cannot be
// told from some other one, because characters in it had to be replaced.
func appendText(dst []byte, value jsontext.Value) (said []byte, exact bool) {
	switch value.Kind() {
	case jsontext.KindString:
		dst, err := jsontext.AppendUnquote(dst, value)
		return dst, err == nil
	case jsontext.KindNull, jsontext.KindInvalid:
		return dst, true
	default:
		return append(dst, value...), true
	}
}
