package diagnosis

import (
	"strings"
	"testing"
)

const indentedBy2 = "{\n  \"event_type\": \"task.completed\",\n  \"task_id\": \"1\",\n  \"result\": {\n    \"text\": \"a/b <é> 😀\",\n    \"parts\": []\n  },\n" +
	"  \"usage\": {\n    \"cost\": 0.010,\n    \"tokens\": [\n      1,\n      2\n    ]\n  }\n}"

func TestChangedEndsAreFound(t *testing.T) {
	inCRLF := strings.ReplaceAll(indentedBy2, "\n", "\r\n")
	runAll(t, []diagnosisTest{
		{name: "newline added", body: sent + "\n", want: []string{"these bytes without white space at the end, made", "has added white space that was not signed", "Verify the bytes exactly as they arrived"}},
		{name: "CR LF added", body: sent + "\r\n", want: []string{"these bytes without white space at the end"}},
		{name: "newline lost", signed: sent + "\n", want: []string{"these bytes with a newline at the end", "has removed the newline"}},
		{name: "CR LF lost", signed: sent + "\r\n", want: []string{"these bytes with CR LF at the end"}},
		{name: "CR LF to LF", signed: inCRLF, body: indentedBy2, want: []string{"these bytes with CR LF for LF", "changed the line breaks"}},
		{name: "LF to CR LF", signed: indentedBy2, body: inCRLF, want: []string{"these bytes with LF for CR LF"}},
		{name: "LF to CR LF and a newline", signed: indentedBy2, body: inCRLF + "\r\n", want: []string{"the same JSON indented by two spaces, made"}},
		{name: "white space in front", body: " \n" + sent, want: []string{"these bytes without white space at either end"}},
		{name: "broken into lines", body: sent[:40] + "\n" + sent[40:], want: []string{"these bytes without line breaks"}},
	})
}

func TestByteOrderMarksAreFound(t *testing.T) {
	const small = `{"task_id":"1"}`
	utf16 := "\xff\xfe"
	for _, c := range []byte(small + "\r\n") {
		utf16 += string([]byte{c, 0})
	}
	runAll(t, []diagnosisTest{
		{name: "mark added", body: "\uFEFF" + sent, want: []string{"these bytes in UTF-8 without a byte order mark", "Save the file as UTF-8"}},
		{name: "mark lost", signed: "\uFEFF" + sent, want: []string{"these bytes with a byte order mark in front"}},
		{name: "PowerShell", signed: small, body: utf16, want: []string{"these bytes in UTF-8 without a byte order mark, without white space at the end", "PowerShell"}},
		{name: "UTF-16 without a mark", signed: small, body: utf16[2 : len(utf16)-4], want: []string{"these bytes in UTF-8, converted from UTF-16, little-endian"}},
		{name: "signed in UTF-16", signed: utf16[2 : len(utf16)-4], body: small, want: []string{"these bytes in UTF-16, little-endian", ".NET"}},
	})
}

func TestAccentsAreFound(t *testing.T) {
	const composed, decomposed = `{"text":"Zoë"}`, "{\"text\":\"Zoe\u0308\"}"
	runAll(t, []diagnosisTest{
		{name: "taken apart", signed: composed, body: decomposed, want: []string{"these bytes with composed accents (Unicode NFC), made", "split é into e and an accent", "normalizes"}},
		{name: "put together", signed: decomposed, body: composed, want: []string{"these bytes with decomposed accents (Unicode NFD), made"}},
		{name: "taken apart, escaped", signed: `{"text":"Zo\u00eb"}`, body: `{"text":"Zoe\u0308"}`, want: []string{"with composed accents (Unicode NFC), made"}},
		{name: "taken apart and escaped", signed: composed, body: `{"text":"Zoe\u0308"}`, want: []string{"Unicode NFC", "made"}},
		{name: "taken apart, with a newline", signed: composed, body: decomposed + "\n", want: []string{"Unicode NFC", "without white space at the end"}},
	})
}
