package instantapi

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"sync"

	"github.com/go-json-experiment/json/jsontext"
)

// errNotAnObject means that a verified body is not one JSON object.
var errNotAnObject = errors.New("body is not a JSON object")

// scanners keeps JSON decoders between requests, because a decoder's state
// outweighs the whole of a small event.
var scanners = sync.Pool{New: func() any { return new(jsontext.Decoder) }}

// scanEvent checks that body is exactly one JSON object and returns the values
// of its top-level members called names, in the order of names, nil where there
// is none. Everything else is checked but not decoded. The values point into
// body. The error is [errNotAnObject].
//
// Senders and backends disagree about what this package does not need to know,
// so the scan takes no side: of a repeated name the last one counts, as in
// JavaScript and Python; text may hold lone surrogates, which JSON.stringify
// writes when a text was cut in the middle of an emoji.
//
// A scan, because encoding/json into a struct takes eight times as long as the
// HMAC of the same body. A library, though a scanner of our own took a fifth less
// time for text; this one and not a faster one, because it limits the depth of
// nesting (to 10,000): a recursive scanner without that limit lets one body of
// open brackets take gigabytes of stack.
func scanEvent(body []byte, names []string) ([]jsontext.Value, error) {
	dec := scanners.Get().(*jsontext.Decoder)
	defer func() {
		dec.Reset(http.NoBody) // so that the pool keeps no body alive
		scanners.Put(dec)
	}()
	dec.Reset(bytes.NewBuffer(body), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))

	if dec.PeekKind() != jsontext.KindBeginObject {
		return nil, errNotAnObject
	}
	if _, err := dec.ReadToken(); err != nil {
		return nil, errNotAnObject
	}
	values := make([]jsontext.Value, len(names))
	for dec.PeekKind() == jsontext.KindString {
		if err := scanMember(dec, body, names, values); err != nil {
			return nil, errNotAnObject
		}
	}
	if _, err := dec.ReadToken(); err != nil { // the closing brace
		return nil, errNotAnObject
	}
	if _, err := dec.ReadToken(); err != io.EOF {
		return nil, errNotAnObject
	}
	return values, nil
}

// scanMember reads one member of the object, and keeps its value where its name
// is among names.
func scanMember(dec *jsontext.Decoder, body []byte, names []string, values []jsontext.Value) error {
	token, err := dec.ReadToken()
	if err != nil {
		return err
	}
	name := token.String()
	// Also where it is not wanted: SkipValue takes half as long again for objects
	// and arrays.
	value, err := dec.ReadValue()
	if err != nil {
		return err
	}
	end := dec.InputOffset() // the decoder's own slice is good until its next read only
	for i := range names {
		if names[i] == name {
			values[i] = body[end-int64(len(value)) : end]
		}
	}
	return nil
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
