package cli

import (
	"encoding/base64"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/instantapi/caddy-instantapi-verify/signature"
)

// TestVerifySaysWhatWentWrong signs one body and verifies another, or with
// another secret. The JSON on one side is what the named library wrote.
func TestVerifySaysWhatWentWrong(t *testing.T) {
	const (
		sent = `{"event_type":"task.completed","task_id":"1","result":{"text":"a/b <é> 😀","parts":[]},"usage":{"cost":0.010,"tokens":[1,2]}}`

		python              = `{"event_type": "task.completed", "task_id": "1", "result": {"text": "a/b <\u00e9> \ud83d\ude00", "parts": []}, "usage": {"cost": 0.010, "tokens": [1, 2]}}`
		pythonUTF8          = `{"event_type": "task.completed", "task_id": "1", "result": {"text": "a/b <é> 😀", "parts": []}, "usage": {"cost": 0.010, "tokens": [1, 2]}}`
		pythonSorted        = `{"event_type": "task.completed", "result": {"parts": [], "text": "a/b <\u00e9> \ud83d\ude00"}, "task_id": "1", "usage": {"cost": 0.010, "tokens": [1, 2]}}`
		pythonCompact       = `{"event_type":"task.completed","task_id":"1","result":{"text":"a/b <\u00e9> \ud83d\ude00","parts":[]},"usage":{"cost":0.010,"tokens":[1,2]}}`
		pythonCompactSorted = `{"event_type":"task.completed","result":{"parts":[],"text":"a/b <\u00e9> \ud83d\ude00"},"task_id":"1","usage":{"cost":0.010,"tokens":[1,2]}}`
		sorted              = `{"event_type":"task.completed","result":{"parts":[],"text":"a/b <é> 😀"},"task_id":"1","usage":{"cost":0.010,"tokens":[1,2]}}`
		javaScript          = `{"event_type":"task.completed","task_id":"1","result":{"text":"a/b <é> 😀","parts":[]},"usage":{"cost":0.01,"tokens":[1,2]}}`
		golang              = `{"event_type":"task.completed","result":{"parts":[],"text":"a/b \u003cé\u003e 😀"},"task_id":"1","usage":{"cost":0.01,"tokens":[1,2]}}`
		php                 = `{"event_type":"task.completed","task_id":"1","result":{"text":"a\/b <\u00e9> \ud83d\ude00","parts":[]},"usage":{"cost":0.010,"tokens":[1,2]}}`
		indentedBy2         = "{\n  \"event_type\": \"task.completed\",\n  \"task_id\": \"1\",\n  \"result\": {\n    \"text\": \"a/b <é> 😀\",\n    \"parts\": []\n  },\n" +
			"  \"usage\": {\n    \"cost\": 0.010,\n    \"tokens\": [\n      1,\n      2\n    ]\n  }\n}"
	)
	indentedBy4 := strings.ReplaceAll(indentedBy2, "  ", "    ")
	indentedByTabs := strings.ReplaceAll(indentedBy2, "  ", "\t")
	utf16 := "\xff\xfe" + string(func() (b []byte) {
		for _, c := range []byte("{\"task_id\":\"1\"}\r\n") {
			b = append(b, c, 0)
		}
		return b
	}())
	key := "0123456789abcdef0123456789abcdef"

	for _, test := range []struct {
		name           string
		signed, secret string // what the signature was made of; default: sent, testSecret
		body, with     string // what verify gets; the same defaults
		want           []string
		not            string
	}{
		{name: "another secret", with: "another", want: []string{"wrong secret, or the bytes were changed"}, not: "not one JSON object"},
		{name: "another body", body: `{"task_id":"2"}`, want: []string{"wrong secret, or the bytes were changed"}},
		{name: "cut", body: sent[:60], want: []string{"wrong secret, or the bytes", "not one JSON object: was it cut"}},
		{name: "empty", body: "\x00", want: []string{"The body is empty"}},

		{name: "newline added", body: sent + "\n", want: []string{"these bytes without white space at the end, made", "Verify the bytes exactly as they arrived"}},
		{name: "CR LF added", body: sent + "\r\n", want: []string{"these bytes without white space at the end"}},
		{name: "newline lost", signed: sent + "\n", want: []string{"these bytes with a newline at the end"}},
		{name: "CR LF lost", signed: sent + "\r\n", want: []string{"these bytes with CR LF at the end"}},
		{name: "mark added", body: "\uFEFF" + sent, want: []string{"these bytes in UTF-8 without a byte order mark"}},
		{name: "mark lost", signed: "\uFEFF" + sent, want: []string{"these bytes with a byte order mark in front"}},
		{name: "CR LF to LF", signed: strings.ReplaceAll(indentedBy2, "\n", "\r\n"), body: indentedBy2, want: []string{"these bytes with CR LF for LF"}},
		{name: "LF to CR LF", signed: indentedBy2, body: strings.ReplaceAll(indentedBy2, "\n", "\r\n"), want: []string{"these bytes with LF for CR LF"}},
		{name: "PowerShell", signed: `{"task_id":"1"}`, body: utf16, want: []string{"these bytes in UTF-8 without a byte order mark, without white space at the end"}},

		{name: "Python", body: python, signed: pythonUTF8, want: []string{"the same JSON as Python writes it, with ensure_ascii=False, made", "Something has parsed the JSON"}},
		{name: "to Python", body: sent, signed: python, want: []string{"the same JSON as Python writes it, made"}},
		{name: "to Python, sorted", body: sent, signed: pythonSorted, want: []string{"as Python writes it, with sorted keys, made"}},
		{name: "from Python", body: python, want: []string{"the same JSON without white space and needless escapes, made"}},
		{name: "indented by 2", body: indentedBy2, want: []string{"the same JSON without white space, made"}},
		{name: "indented by 2, newline", body: indentedBy2 + "\n", want: []string{"the same JSON without white space, made"}},
		{name: "to indented by 2", signed: indentedBy2, want: []string{"indented by two spaces, made"}},
		{name: "to indented by 2, newline", signed: indentedBy2 + "\n", want: []string{"indented by two spaces, with a newline at the end, made"}},
		{name: "to indented by 4", signed: indentedBy4, want: []string{"indented by four spaces, made"}},
		{name: "to indented by tabs", signed: indentedByTabs, want: []string{"indented by tabs, made"}},
		{name: "to JavaScript", signed: javaScript, want: []string{"as JavaScript writes it, made"}},
		{name: "to Python, compact", signed: pythonCompact, want: []string{"as Python writes it, without white space, made"}},
		{name: "to Python, compact and sorted", signed: pythonCompactSorted, want: []string{"as Python writes it, without white space, with sorted keys, made"}},
		{name: "to JavaScript, indented", signed: strings.Replace(indentedBy2, "0.010", "0.01", 1), want: []string{"as JavaScript writes it, indented by two spaces, made"}},
		{name: "to sorted", signed: sorted, want: []string{"without white space and needless escapes, with sorted keys, made"}},
		{name: "to Go", signed: golang, want: []string{"as Go writes it, made"}},
		{name: "to PHP", signed: php, want: []string{"as PHP writes it, made"}},

		{name: "secret with a newline", secret: testSecret + "\n", want: []string{"these bytes, made with the secret with a newline at its end", "read the secret in the same way"}},
		{name: "secret with CR LF", secret: testSecret + "\r\n", want: []string{"with CR LF at its end"}},
		{name: "secret with a space", secret: testSecret + " ", want: []string{"with a space at its end"}},
		{name: "secret with white space here", with: testSecret + " \n", want: []string{"without the white space around it"}},
		{name: "secret in double quotes", secret: `"` + testSecret + `"`, want: []string{"in double quotes"}},
		{name: "secret in single quotes", secret: "'" + testSecret + "'", want: []string{"in single quotes"}},
		{name: "secret in quotes here", with: `"` + testSecret + `"`, want: []string{"without the quotes around it"}},
		{name: "secret decoded from hex", secret: mustHex(t, key), with: key, want: []string{"decoded from hex"}},
		{name: "secret decoded from base64", secret: "a key", with: base64.StdEncoding.EncodeToString([]byte("a key")), want: []string{"decoded from base64"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			body := or(test.body, sent)
			if body == "\x00" {
				body = ""
			}
			sig := signature.Sign(or(test.secret, testSecret), []byte(or(test.signed, sent)))
			with := or(test.with, testSecret)
			got := diagnose([]byte(body), sig, []candidate{{"the secret", with}})
			if got.valid {
				t.Error("it is valid")
			}
			for _, want := range append(test.want, "invalid: signature matches no secret") {
				if !strings.Contains(got.text, want) {
					t.Errorf("want %q in: %s", want, got.text)
				}
			}
			if test.not != "" && strings.Contains(got.text, test.not) {
				t.Errorf("it says %q: %s", test.not, got.text)
			}
			wantNoSecrets(t, got.text, body, with, sig)
		})
	}
}

// wantNoSecrets checks that a diagnosis would help nobody to sign.
func wantNoSecrets(t *testing.T, text, body, secret, sig string) {
	t.Helper()
	for _, s := range []string{secret, sig, signature.Sign(secret, []byte(body))} {
		if strings.Contains(strings.ToLower(text), strings.ToLower(s)) {
			t.Errorf("it says too much: %s", text)
		}
	}
}

func TestVerifySaysWhatIsMalformed(t *testing.T) {
	body := taskEvent("1")
	good := signature.Sign(testSecret, body)
	digest := mustHex(t, good)
	for _, test := range []struct {
		name, sig string
		want      string
		apart     bool // from that, it is right
	}{
		{"empty", "", "it is empty", false},
		{"white space", "\n", "it is empty", false},
		{"short", good[1:], "there are 63 digits", false},
		{"long", good + "0", "there are 65 digits", false},
		{"short with prefix", "sha256=" + good[1:], "there are 63 digits", false},
		{"a wrong character", good[:9] + "x" + good[10:], `character 10, 'x', is not a hex digit`, false},
		{"not ASCII", good[:62] + "é", `character 63, 'é', is not a hex digit`, false},
		{"SHA-1", good[:40], "there are 40 digits", false},
		{"newline", good + "\n", "spaces, newlines or quotes around it", true},
		{"quotes", `"` + good + `"`, "spaces, newlines or quotes around it", true},
		{"header line", "X-InstantAPI-Signature: " + good + "\r", "whole header line", true},
		{"another prefix", "SHA256=" + good, "only sha256= may stand in front", true},
		{"version", "v1=" + good, "only sha256= may stand in front", true},
		{"base64", base64.StdEncoding.EncodeToString([]byte(digest)), "base64", true},
		{"base64 for URLs", base64.RawURLEncoding.EncodeToString([]byte(digest)), "base64", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := diagnose(body, test.sig, []candidate{{"the secret", testSecret}})
			if got.valid || !strings.HasPrefix(got.text, "invalid: signature is not 64 hex digits: ") || !strings.Contains(got.text, test.want) {
				t.Errorf("want %q in: %s", test.want, got.text)
			}
			if apart := strings.Contains(got.text, "Apart from that it is right"); apart != test.apart {
				t.Errorf("it should say that it is right apart from that (%t): %s", test.apart, got.text)
			}
			wantNoSecrets(t, got.text, string(body), testSecret, good)
		})
	}
	got := diagnose(append(body, '\n'), base64.StdEncoding.EncodeToString([]byte(digest)), []candidate{{"the secret", testSecret}})
	for _, want := range []string{"base64", "Nor would it be right without that", "without white space at the end"} {
		if got.valid || !strings.Contains(got.text, want) {
			t.Errorf("want %q in: %s", want, got.text)
		}
	}
}

// TestDiagnoseTriesOneChangeAtATime counts, for each variant costs a pass or two
// over a body that may have 64 MiB: 38 take a second for 13 MB, and all pairs of
// changes took 24.
func TestDiagnoseTriesOneChangeAtATime(t *testing.T) {
	tried := 0
	for range textVariants(taskEvent("1")) {
		tried++
	}
	for range jsonVariants(taskEvent("1")) {
		tried++
	}
	secrets := len(secretVariants([]candidate{{"the secret", testSecret}}))
	if tried < 20 || tried > 50 || secrets > 12 {
		t.Errorf("%d variants of the body and %d of the secret are tried", tried, secrets)
	}
	// Not one of a body with one of a secret.
	sig := signature.Sign(testSecret+"\n", append(taskEvent("1"), '\n'))
	got := diagnose(taskEvent("1"), sig, []candidate{{"the secret", testSecret}})
	if !strings.Contains(got.text, "wrong secret, or the bytes were changed") {
		t.Errorf("it tries pairs of changes: %s", got.text)
	}
}

// TestDiagnoseFindsNothingInNoise tries bodies that are no text, and ends.
func TestDiagnoseFindsNothingInNoise(t *testing.T) {
	for _, body := range []string{"", "\xff\xfe", "\xfe\xff\xd8", "\xef\xbb\xbf", "\xff\xff", "{", "null", strings.Repeat("[", 20000), "\r\n\r\n"} {
		got := diagnose([]byte(body), signature.Sign("another", []byte("something")), []candidate{{"the secret", testSecret}})
		if got.valid || !strings.Contains(got.text, "wrong secret, or the bytes were changed") {
			t.Errorf("%.20q: %s", body, got.text)
		}
	}
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func mustHex(t *testing.T, s string) string {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
