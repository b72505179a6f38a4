package diagnosis

import (
	"bytes"
	"cmp"
	"slices"

	"github.com/go-json-experiment/json/jsontext"
)

// maxDatabaseJSON bounds databaseJSON, which copies a value once for each object
// around it.
const maxDatabaseJSON = 256 << 10

// databaseJSON returns JSON as PostgreSQL prints a jsonb, and MySQL a JSON:
// with keys ordered by length, and only the last of repeated keys.
func databaseJSON(body []byte) []byte {
	body = inUTF8(body)
	if len(body) > maxDatabaseJSON || !isJSON(body) {
		return nil
	}
	written, err := appendByLength(nil, jsontext.NewDecoder(bytes.NewReader(body), anyJSON...))
	if err != nil {
		return nil
	}
	return plainStrings.apply(written)
}

func appendByLength(dst []byte, dec *jsontext.Decoder) ([]byte, error) {
	switch dec.PeekKind() {
	case jsontext.KindBeginObject:
		return appendObject(dst, dec)
	case jsontext.KindBeginArray:
		return appendArray(dst, dec)
	default:
		value, err := dec.ReadValue()
		return append(dst, value...), err
	}
}

func appendArray(dst []byte, dec *jsontext.Decoder) ([]byte, error) {
	_, err := dec.ReadToken()
	dst = append(dst, '[')
	for first := true; err == nil && dec.PeekKind() != jsontext.KindEndArray; first = false {
		if !first {
			dst = append(dst, ", "...)
		}
		dst, err = appendByLength(dst, dec)
	}
	if err == nil {
		_, err = dec.ReadToken()
	}
	return append(dst, ']'), err
}

func appendObject(dst []byte, dec *jsontext.Decoder) ([]byte, error) {
	type member struct{ name, literal, value []byte }
	var members []member
	_, err := dec.ReadToken()
	for err == nil && dec.PeekKind() != jsontext.KindEndObject {
		literal, nameErr := dec.ReadValue()
		if nameErr != nil {
			return dst, nameErr
		}
		m := member{literal: slices.Clone(literal)}
		m.name, _ = jsontext.AppendUnquote(nil, m.literal)
		m.value, err = appendByLength(nil, dec)
		members = slices.DeleteFunc(members, func(other member) bool { return bytes.Equal(other.name, m.name) })
		members = append(members, m)
	}
	if err != nil {
		return dst, err
	}
	if _, err := dec.ReadToken(); err != nil {
		return dst, err
	}
	slices.SortStableFunc(members, func(a, b member) int {
		return cmp.Or(cmp.Compare(len(a.name), len(b.name)), bytes.Compare(a.name, b.name))
	})
	dst = append(dst, '{')
	for i, m := range members {
		if i > 0 {
			dst = append(dst, ", "...)
		}
		dst = append(append(append(dst, m.literal...), ": "...), m.value...)
	}
	return append(dst, '}'), nil
}
