package scan

import (
	"bytes"
	"encoding/binary"
	"math/bits"
)

// skipString skips a string, whose opening quote is next.
func (s *scanner) skipString() error {
	for quote := nextQuote(s.body, s.at+1); quote >= 0; quote = nextUnescaped(s.body, quote+1) {
		// No backslash is counted twice, because each run begins behind the
		// last quote.
		run := quote
		for s.body[run-1] == '\\' {
			run--
		}
		if (quote-run)%2 == 0 {
			s.at = quote + 1
			return nil
		}
	}
	return s.unclosed("string")
}

// nextQuote returns the position of the first quote from at on, or -1. It looks
// at one word first, because most strings are short and IndexByte takes time to
// start.
func nextQuote(body []byte, at int) int {
	rest := body[at:]
	if len(rest) >= wordSize {
		if quotes := zeros(binary.LittleEndian.Uint64(rest) ^ each*'"'); quotes != 0 {
			return at + bits.TrailingZeros64(quotes)/8
		}
	}
	if n := bytes.IndexByte(rest, '"'); n >= 0 {
		return at + n
	}
	return -1
}

// nextUnescaped is nextQuote for the text behind an escaped quote. If a text is
// itself JSON, many more escaped quotes follow, too close to each other for
// IndexByte. So nextUnescaped first skips quotes that a single backslash
// escapes, for as long as each is near the one before.
func nextUnescaped(body []byte, at int) int {
	const near = 32
	for last := min(at+near, len(body)) - wordSize; at <= last; at += wordSize {
		window := body[at-2 : at+wordSize]
		quotes := zeros(binary.LittleEndian.Uint64(window[2:]) ^ each*'"')
		if quotes == 0 {
			continue
		}
		escapes := zeros(binary.LittleEndian.Uint64(window[1:]) ^ each*'\\') // one byte before
		doubled := zeros(binary.LittleEndian.Uint64(window) ^ each*'\\')     // two bytes before
		if quotes &= ^escapes | doubled; quotes != 0 {
			return at + bits.TrailingZeros64(quotes)/8
		}
		last = min(at+near, len(body)) - wordSize
	}
	return nextQuote(body, at)
}

// skipNested skips an object or an array, whose opening bracket is next.
func (s *scanner) skipNested() error {
	opening := s.body[s.at]
	inside := scanner{s.body, s.at}
	for depth := 0; inside.skipPlain(); {
		c := s.body[inside.at]
		if c == '"' {
			if err := inside.skipString(); err != nil {
				return err
			}
			continue
		}
		if c == '{' || c == '[' {
			depth++
		} else {
			depth--
		}
		if depth == 0 {
			s.at = inside.at
			return s.close(opening)
		}
		inside.at++
	}
	if opening == '[' {
		return s.unclosed("array")
	}
	return s.unclosed("object")
}

// close takes the bracket that closes this opening one.
func (s *scanner) close(opening byte) error {
	if opening == '[' {
		return s.take(']', "']'")
	}
	return s.take('}', "'}'")
}

// skipPlain skips to the next quote or bracket, and reports whether there is
// one. It looks at single bytes first, because the next one is usually close.
func (s *scanner) skipPlain() bool {
	body, at := s.body, s.at
	for nearby := min(at+wordSize, len(body)); at < nearby; at++ {
		if isStructure[body[at]] {
			s.at = at
			return true
		}
	}
	for at+wordSize <= len(body) && !hasStructure(binary.LittleEndian.Uint64(body[at:])) {
		at += wordSize
	}
	for at < len(body) && !isStructure[body[at]] {
		at++
	}
	s.at = at
	return at < len(body)
}

// isStructure tells quotes and brackets from all other bytes.
var isStructure = [256]bool{'"': true, '{': true, '}': true, '[': true, ']': true}

// A word is eight bytes that are looked at together.
const (
	wordSize = 8
	each     = 0x0101010101010101 // times a byte: a word full of it
)

// hasStructure reports whether there is a quote or a bracket in word. It is
// also true of "Y", "y", "_" and DEL, because the four brackets differ only in
// the bits that it ignores; outside strings these characters are rare.
func hasStructure(word uint64) bool {
	const differ = ('[' ^ ']') | ('[' ^ '{')
	return zeros(word^each*'"')|zeros(word&^(each*differ)^each*('['&^differ)) != 0
}

// zeros returns a word with the highest bit set of each byte that is 0 in word.
func zeros(word uint64) uint64 {
	const low = each * 0x7f
	return ^(word&low + low | word) & (each * 0x80) // no sum carries into the next byte
}
