package diagnosis

import (
	"bytes"
	"fmt"
	"regexp"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// lostCharacters finds question marks inside words and in a row.
var lostCharacters = regexp.MustCompile(`\pL\?+\pL|\?\?`)

// replaced finds U+FFFD, which stands for what could not be decoded.
var replaced = regexp.MustCompile(`(?i)\x{FFFD}|\\ufffd`)

// notInJSON finds numbers that Python writes and JSON lacks.
var notInJSON = regexp.MustCompile(`[\[:,]\s*-?(NaN|Infinity)\b`)

// hints returns what is unusual about a body whose wrong signature nothing else
// explains.
func hints(body []byte) (lines []string) {
	if len(body) == 0 {
		return []string{"The body is empty: was it read before, or lost?"}
	}
	switch {
	case bytes.HasPrefix(body, []byte("\x1f\x8b")):
		lines = append(lines, "The body looks like gzip, but can't be unpacked: was it cut off?")
	case bytes.HasPrefix(body, []byte("\x28\xb5\x2f\xfd")):
		lines = append(lines, "The body is compressed with zstd: unpack it and verify the result, too, in case it was signed before.")
	case isObject(body):
	case notInJSON.Match(body):
		lines = append(lines, "There is NaN or Infinity in the body, which JSON lacks, so other ways to write it were not tried.")
	default:
		lines = append(lines, "The body is not one JSON object: was it cut off, or is it something else?")
	}
	if replaced.Match(body) {
		lines = append(lines, "There are replacement characters (U+FFFD) in the body: something has decoded it with the wrong character set, and the characters that they replace are lost. "+asBytes)
	}
	if lostCharacters.Match(body) {
		lines = append(lines, "There are question marks where none belong: if they replace other characters, a conversion to ASCII or Latin-1 has lost those. "+asBytes)
	}
	if !utf8.Valid(body) && isObject(body) {
		lines = append(lines, "Part of the body is not UTF-8: has something converted it?")
	}
	if len(body) > maxTwoChanges {
		lines = append(lines, fmt.Sprintf("Two changes at once were not tried, because the body is over %d KiB.", maxTwoChanges>>10))
	}
	return lines
}

// isObject reports whether a body is one JSON object, with or without a byte order
// mark.
func isObject(body []byte) bool {
	body = bytes.TrimPrefix(body, []byte(mark))
	return jsontext.Value(body).Kind() == jsontext.KindBeginObject && isJSON(body)
}
