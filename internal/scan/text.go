package scan

import "github.com/go-json-experiment/json/jsontext"

// Text returns the characters of a string, and other values as their JSON. It
// returns "" for a missing value, null, "" and what is not JSON. Invalid UTF-8
// and lone surrogates are replaced by U+FFFD.
func Text(value jsontext.Value) string {
	var room [64]byte
	said, _ := AppendText(room[:0], value)
	return string(said)
}

// AppendText appends what [Text] returns. exact is false if another value could
// have the same text: if characters had to be replaced, or the value is not
// JSON.
func AppendText(dst []byte, value jsontext.Value) (said []byte, exact bool) {
	if len(value) == 0 {
		return dst, true
	}
	if value.Kind() == jsontext.KindString {
		said, err := jsontext.AppendUnquote(dst, value)
		if err != nil && !isJSON(value) {
			return dst, false
		}
		return said, err == nil
	}
	switch {
	case !isJSON(value):
		return dst, false
	case value.Kind() == jsontext.KindNull:
		return dst, true
	default:
		return append(dst, value...), true
	}
}

// appendName appends the characters of a member's name. ok is false if the name
// is not JSON: then it equals no name that is asked for.
func appendName(dst, name []byte) (said []byte, ok bool) {
	said, err := jsontext.AppendUnquote(dst, name)
	return said, err == nil || isJSON(name)
}

// isJSON reports whether a value is JSON, allowing repeated names, lone
// surrogates and invalid UTF-8.
func isJSON(value jsontext.Value) bool { return value.IsValid(lenient...) }

var lenient = []jsontext.Options{jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)}
