package scan

import (
	"fmt"
	"strconv"
)

// Error says why, and from which byte on, a body is not a JSON object. A body
// is private, so the error quotes at most one byte of it.
type Error struct {
	Offset int // of the wrong byte, counted from 0; the body's length if it ends too early
	fault  string
}

func (e *Error) Error() string { return "body is not a JSON object: " + e.fault }

// fault is the error of a body that does not continue with what is wanted.
func (s *scanner) fault(wanted string) error {
	switch {
	case len(s.body) == 0:
		return s.errorf("it is empty")
	case s.at == len(s.body):
		return s.errorf("it ends at byte %d, where %s is expected", s.at, wanted)
	}
	return s.errorf("byte %d is %s, not %s", s.at, describe(s.body[s.at]), wanted)
}

// unclosed is the error of a body that ends inside what begins at the next
// byte.
func (s *scanner) unclosed(what string) error {
	start := s.at
	s.at = len(s.body)
	return s.errorf("it ends at byte %d, inside the %s that begins at byte %d", s.at, what, start)
}

func (s *scanner) errorf(format string, args ...any) error {
	return &Error{Offset: s.at, fault: fmt.Sprintf(format, args...)}
}

// describe shows a byte, in hex unless it is a visible ASCII character.
func describe(c byte) string {
	if c <= ' ' || c > '~' {
		return fmt.Sprintf("0x%02x", c)
	}
	return strconv.QuoteRune(rune(c))
}
