// Package scan finds the values of an event's top-level members in its body.
// What is inside the values is left to the backend's parser to judge.
package scan

import (
	"bytes"

	"github.com/go-json-experiment/json/jsontext"
)

// Members checks that body is one JSON object and finds the values of its
// top-level members called names: values[i] becomes the value of names[i], or
// nil if there is none. The two slices have the same length. The values are
// slices of body. The error is an [*Error]; values then holds what comes before
// the fault.
//
// Members checks only the object itself. Each name is in double quotes and is
// followed by a colon and a value, commas separate the members, and around the
// object there is only white space, except for a byte order mark at the very
// beginning. If a name is repeated, the last member counts, as in JavaScript
// and Python.
//
// Of the values it only finds the ends. Senders and backends disagree about
// what may be inside, and the signature covers it: NaN and Infinity, lone
// surrogates, invalid UTF-8, raw control characters, trailing commas and any
// depth of nesting pass.
//   - A string ends at the first quote with an even number of backslashes in
//     front.
//   - An object or an array ends where all brackets opened since its beginning have been closed. Brackets in strings don't count. The two kinds are counted together, but the last bracket must match the first.
//   - Anything else is a run of letters, digits and "+-._".
//
// The time that Members takes depends only on the length of body. Nesting takes
// no memory, neither stack nor heap.
func Members(body []byte, names []string, values []jsontext.Value) error {
	clear(values)
	s := scanner{body: body}
	if bytes.HasPrefix(body, byteOrderMark) {
		s.at = len(byteOrderMark)
	}
	if err := s.take('{', "'{'"); err != nil {
		return err
	}
	if s.next() == '}' {
		return s.finish()
	}
	for {
		name, value, err := s.member()
		if err != nil {
			return err
		}
		assign(name, value, names, values)
		switch s.next() {
		case ',':
			s.at++
		case '}':
			return s.finish()
		default:
			return s.fault("',' or '}'")
		}
	}
}

var byteOrderMark = []byte("\ufeff")

// scanner is a position in a body.
type scanner struct {
	body []byte
	at   int
}

// end is what next returns at the end of the body.
const end = -1

// next skips white space and returns the byte behind it, without taking it.
func (s *scanner) next() int {
	for ; s.at < len(s.body); s.at++ {
		switch c := s.body[s.at]; c {
		case ' ', '\n', '\t', '\r':
		default:
			return int(c)
		}
	}
	return end
}

// take skips white space and takes the byte behind it, which must be want.
func (s *scanner) take(want int, called string) error {
	if s.next() != want {
		return s.fault(called)
	}
	s.at++
	return nil
}

// finish takes the closing brace, which must be the last thing in the body.
func (s *scanner) finish() error {
	s.at++
	if s.next() != end {
		return s.fault("the end")
	}
	return nil
}

// member takes a name, with its quotes, and a value.
func (s *scanner) member() (name, value []byte, err error) {
	if s.next() != '"' {
		return nil, nil, s.fault("a name in double quotes")
	}
	start := s.at
	if err := s.skipString(); err != nil {
		return nil, nil, err
	}
	name = s.body[start:s.at]
	if err := s.take(':', "':'"); err != nil {
		return nil, nil, err
	}
	first := s.next()
	start = s.at
	switch first {
	case '"':
		err = s.skipString()
	case '{', '[':
		err = s.skipNested()
	default:
		err = s.skipScalar()
	}
	return name, s.body[start:s.at], err
}

// skipScalar skips a number or a literal, including literals that JSON lacks,
// such as NaN or -Infinity. It stops at any other character: inside single
// quotes or a comment a comma would not end the value.
func (s *scanner) skipScalar() error {
	start := s.at
	for s.at < len(s.body) && isScalar(s.body[s.at]) {
		s.at++
	}
	if s.at == start {
		return s.fault("a value")
	}
	return nil
}

func isScalar(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		c == '-' || c == '+' || c == '.' || c == '_'
}

// assign keeps the value if its name is among names.
func assign(name, value []byte, names []string, values []jsontext.Value) {
	said := name[1 : len(name)-1]
	if !isPlainASCII(said) {
		var room [64]byte
		var ok bool
		if said, ok = appendName(room[:0], name); !ok {
			return
		}
	}
	for i, want := range names {
		if string(said) == want {
			values[i] = value
		}
	}
}

// isPlainASCII reports whether a name has neither escapes nor characters beyond
// ASCII.
func isPlainASCII(name []byte) bool {
	for _, c := range name {
		if c < ' ' || c == '\\' || c > '~' {
			return false
		}
	}
	return true
}
