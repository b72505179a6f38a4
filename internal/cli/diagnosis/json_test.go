package diagnosis

import (
	"strings"
	"testing"
)

// The JSON is what the named library wrote.
const (
	python              = `{"event_type": "task.completed", "task_id": "1", "result": {"text": "a/b <\u00e9> \ud83d\ude00", "parts": []}, "usage": {"cost": 0.010, "tokens": [1, 2]}}`
	pythonUTF8          = `{"event_type": "task.completed", "task_id": "1", "result": {"text": "a/b <é> 😀", "parts": []}, "usage": {"cost": 0.010, "tokens": [1, 2]}}`
	pythonSorted        = `{"event_type": "task.completed", "result": {"parts": [], "text": "a/b <\u00e9> \ud83d\ude00"}, "task_id": "1", "usage": {"cost": 0.010, "tokens": [1, 2]}}`
	pythonCompact       = `{"event_type":"task.completed","task_id":"1","result":{"text":"a/b <\u00e9> \ud83d\ude00","parts":[]},"usage":{"cost":0.010,"tokens":[1,2]}}`
	pythonCompactSorted = `{"event_type":"task.completed","result":{"parts":[],"text":"a/b <\u00e9> \ud83d\ude00"},"task_id":"1","usage":{"cost":0.010,"tokens":[1,2]}}`
	sortedKeys          = `{"event_type":"task.completed","result":{"parts":[],"text":"a/b <é> 😀"},"task_id":"1","usage":{"cost":0.010,"tokens":[1,2]}}`
	javaScript          = `{"event_type":"task.completed","task_id":"1","result":{"text":"a/b <é> 😀","parts":[]},"usage":{"cost":0.01,"tokens":[1,2]}}`
	golang              = `{"event_type":"task.completed","result":{"parts":[],"text":"a/b \u003cé\u003e 😀"},"task_id":"1","usage":{"cost":0.01,"tokens":[1,2]}}`
	php                 = `{"event_type":"task.completed","task_id":"1","result":{"text":"a\/b <\u00e9> \ud83d\ude00","parts":[]},"usage":{"cost":0.010,"tokens":[1,2]}}`
	jsonb               = `{"usage": {"cost": 0.010, "tokens": [1, 2]}, "result": {"text": "a/b <é> 😀", "parts": []}, "task_id": "1", "event_type": "task.completed"}`
)

func TestJSONWrittenAnewIsFound(t *testing.T) {
	indentedBy4 := strings.ReplaceAll(indentedBy2, "  ", "    ")
	runAll(t, []diagnosisTest{
		{name: "Python", body: python, signed: pythonUTF8, want: []string{"the same JSON without needless escapes, made", "Something has parsed and rewritten the JSON"}},
		{name: "to Python, in UTF-8", signed: pythonUTF8, want: []string{"the same JSON with a space behind each comma and colon, as Python writes it, made"}},
		{name: "to Python, in UTF-8, escapes undone", body: pythonCompact, signed: pythonUTF8, want: []string{"the same JSON as Python writes it, with ensure_ascii=False, made"}},
		{name: "to Python", signed: python, want: []string{"the same JSON as Python writes it, made", "json.dumps puts a space behind each comma and colon"}},
		{name: "to Python, sorted", signed: pythonSorted, want: []string{"as Python writes it, with sorted keys, made"}},
		{name: "to Python, compact", signed: pythonCompact, want: []string{`the same JSON with all that is not ASCII as \uxxxx, as Python and PHP write it, made`}},
		{name: "to Python, compact and sorted", signed: pythonCompactSorted, want: []string{"as Python writes it, without white space, with sorted keys, made"}},
		{name: "from Python", body: python, want: []string{"the same JSON without white space and needless escapes, made"}},
		{name: "indented by 2", body: indentedBy2, want: []string{"the same JSON without white space, made"}},
		{name: "indented by 2, newline", body: indentedBy2 + "\n", want: []string{"the same JSON without white space, made"}},
		{name: "to indented by 2", signed: indentedBy2, want: []string{"indented by two spaces, made"}},
		{name: "to indented by 2, newline", signed: indentedBy2 + "\n", want: []string{"indented by two spaces, with a newline at the end, made"}},
		{name: "to indented by 4", signed: indentedBy4, want: []string{"indented by four spaces, made"}},
		{name: "to indented by tabs", signed: strings.ReplaceAll(indentedBy2, "  ", "\t"), want: []string{"indented by tabs, made"}},
		{name: "to JavaScript", signed: javaScript, want: []string{"as JavaScript writes it, made"}},
		{name: "to JavaScript, indented", signed: strings.Replace(indentedBy2, "0.010", "0.01", 1), want: []string{"as JavaScript writes it, indented by two spaces, made"}},
		{name: "to sorted", signed: sortedKeys, want: []string{"with sorted keys, made"}},
		{name: "to Go", signed: golang, want: []string{"as Go writes it from a map, made", `\u0026, \u003c and \u003e`}},
		{name: "to PHP", signed: php, want: []string{"as PHP writes them, made", `json_encode writes / as \/`}},
		{name: "from PHP", body: php, want: []string{"without needless escapes, made", "PHP with /"}},
		{name: "jsonb", signed: jsonb, want: []string{"PostgreSQL's jsonb"}},
		{name: "with a byte order mark, from Python", body: "\uFEFF" + python, want: []string{"without white space and needless escapes, made"}},
		{name: "half an emoji, to Python", body: `{"a":"\ud83d ☃"}`, signed: `{"a": "\ud83d \u2603"}`, want: []string{"as Python writes it, made"}},
		{name: "half an emoji, to Go", body: `{"b":"\ud83d","a":1}`, signed: "{\"a\":1,\"b\":\"\uFFFD\"}", want: []string{"as Go writes it from a map, made"}},
		{name: "numbers, to JavaScript", body: `{ "a":1.0 }`, signed: `{ "a":1 }`, want: []string{"with numbers as JavaScript writes them, made"}},
		{name: "numbers, to Python", body: `{ "a":[1e2,0.10,1,1e-7,1e16] }`, signed: `{ "a":[100.0,0.1,1,1e-07,1e+16] }`, want: []string{"with numbers as Python and Ruby write them, made"}},
	})
}

func TestEscapesAreFound(t *testing.T) {
	const plain = `{"text": "a/b <é> & 'q' \"+` + "`" + ` 😀\u001f\\ ","n":1.50}`
	spoken := func(from ...string) string { return strings.NewReplacer(from...).Replace(plain) }
	rails := spoken("<", `\u003c`, ">", `\u003e`, "&", `\u0026`)
	dotNet := spoken("<", `\u003C`, ">", `\u003E`, "&", `\u0026`, "'", `\u0027`, `\"`, `\u0022`, "+", `\u002B`, "`", `\u0060`,
		"é", `\u00E9`, "😀", `\uD83D\uDE00`, `\u001f`, `\u001F`)
	const lines, linesEscaped = "{\"a\":\"<\u2028\u2029\"}", `{"a":"<\u2028\u2029"}`
	const undone = "without needless escapes, made"
	runAll(t, []diagnosisTest{
		{name: "Rails", body: plain, signed: rails, want: []string{"the same JSON with &, < and > escaped, as Rails, Gson and Go write them, made", "Rails, Gson and Go's encoding/json", "Verify the bytes as they arrived"}},
		{name: "from Rails", body: rails, signed: plain, want: []string{undone, "Rails"}},
		{name: "lines", body: lines, signed: linesEscaped, want: []string{"with U+2028 and U+2029 escaped, as Rails, Gson and Go write them, made"}},
		{name: "from lines", body: linesEscaped, signed: lines, want: []string{undone}},
		{name: "Rails, lines", body: lines, signed: `{"a":"\u003c\u2028\u2029"}`, want: []string{"Rails"}},
		{name: "only &, < and >", body: lines, signed: "{\"a\":\"\\u003c\u2028\u2029\"}", want: []string{"with &, < and > escaped"}},
		{name: "Gson", body: `{"a":"<a href='x'>&="}`, signed: `{"a":"\u003ca href\u003d\u0027x\u0027\u003e\u0026\u003d"}`, want: []string{"as Gson writes them, made", `\u003d`}},
		{name: "PHP", body: plain, signed: spoken("a/b", `a\/b`, "é", `\u00e9`, "😀", `\ud83d\ude00`), want: []string{"as PHP writes them, made"}},
		{name: "PHP, JSON_UNESCAPED_UNICODE", body: plain, signed: spoken("a/b", `a\/b`), want: []string{"JSON_UNESCAPED_UNICODE, made"}},
		{name: "from slashes", body: spoken("a/b", `a\/b`), signed: plain, want: []string{undone}},
		{name: "Laravel", body: plain, signed: spoken("a/b", `a\/b`, "é", `\u00e9`, "😀", `\ud83d\ude00`, "<", `\u003C`, ">", `\u003E`, "&", `\u0026`, "'", `\u0027`, `\"`, `\u0022`),
			want: []string{"Laravel's and Symfony's"}},
		{name: ".NET", body: `{"t":"a/b <é> & 'q' \"+ 😀"}`, signed: `{"t":"a/b \u003C\u00E9\u003E \u0026 \u0027q\u0027 \u0022\u002B \uD83D\uDE00"}`, want: []string{"the escapes of .NET's System.Text.Json, made", "System.Text.Json"}},
		{name: ".NET, layout kept", body: strings.Replace(plain, `\u001f`, "", 1), signed: strings.Replace(dotNet, `\u001F`, "", 1), want: []string{"with the escapes of .NET's System.Text.Json, made"}},
		{name: "from .NET", body: strings.Replace(dotNet, `\u001F`, `\u001f`, 1), signed: plain, want: []string{undone, ".NET"}},
		{name: "Jackson", body: `{ "a":"é" }`, signed: `{ "a":"\u00E9" }`, want: []string{`\uXXXX, as Jackson writes it, made`}},
		{name: "Json.NET", body: `{ "a":"<é>'\"" }`, signed: `{ "a":"\u003cé\u003e\u0027\u0022" }`, want: []string{"Newtonsoft's Json.NET"}},
	})
}

// Two of the usual changes at once.
func TestTwoChangesAreFound(t *testing.T) {
	indentedBy4 := strings.ReplaceAll(indentedBy2, "  ", "    ")
	runAll(t, []diagnosisTest{
		{name: "newline and escapes", body: strings.NewReplacer("<", `\u003c`, ">", `\u003e`).Replace(sent) + "\n", want: []string{"needless escapes", "made"}},
		{name: "newline added, escapes lost", body: sent + "\n", signed: strings.NewReplacer("<", `\u003c`, ">", `\u003e`).Replace(sent), want: []string{"Rails", "made"}},
		{name: "Python and CR LF", body: sent, signed: python + "\r\n", want: []string{"the same JSON as Python writes it, with CR LF at the end, made"}},
		{name: "PHP, pretty", body: sent, signed: strings.NewReplacer("a/b", `a\/b`, "é", `\u00e9`, "😀", `\ud83d\ude00`).Replace(indentedBy4), want: []string{"indented by four spaces", "as PHP writes them", "made"}},
		{name: "Python, indented, newline", body: sent, signed: strings.NewReplacer("é", `\u00e9`, "😀", `\ud83d\ude00`).Replace(indentedBy2) + "\n", want: []string{"indented by two spaces", `\uxxxx`, "made"}},
		{name: "Windows, indented", body: sent, signed: strings.ReplaceAll(indentedBy2, "\n", "\r\n"), want: []string{"indented by two spaces", "with CR LF for LF, made"}},
		{name: "mangled and written anew", body: strings.NewReplacer("é", "Ã©", "😀", "ð\u009f\u0098\u0080").Replace(python[:0] + sent), signed: pythonUTF8, want: []string{"read as Latin-1", "made"}},
		{name: "body and secret", body: sent + "\n", secret: testSecret + "\n", want: []string{"these bytes without white space at the end, made with the secret with a newline at its end", "printf", "Verify the bytes"}},
		{name: "JSON and secret", body: sent, signed: python, secret: `"` + testSecret + `"`, want: []string{"as Python writes it, made with the secret in double quotes"}},
	})
}
