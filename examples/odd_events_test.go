package examples_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
)

// oddEvent is an authentic event that a framework may choke on, and the line
// that the example's backend writes about it. A backend that answers anything
// but 2xx gets the event again until the sender gives up.
type oddEvent struct {
	name   string
	header map[string]string
	body   string
	line   string
}

func oddEvents(t *testing.T) []oddEvent {
	const plain = `{"event_type":"task.completed","task_id":"`
	completed := func(taskID string) string { return "task.completed " + taskID + " {" }
	typed := func(contentType string) map[string]string { return map[string]string{"Content-Type": contentType} }
	encoded := func(encoding string) map[string]string { return map[string]string{"Content-Encoding": encoding} }
	field := func(fields string) string { return `{"event_type":"task.completed",` + fields + `}` }
	return []oddEvent{
		{"no Content-Type", nil, plain + `type-1"}`, completed("type-1")},
		{"an empty Content-Type", typed(""), plain + `type-2"}`, completed("type-2")},
		{"text", typed("text/plain"), plain + `type-3"}`, completed("type-3")},
		{"a form", typed("application/x-www-form-urlencoded"), plain + `type-4"}`, completed("type-4")},
		{"a form without a boundary", typed("multipart/form-data"), plain + `type-5"}`, completed("type-5")},
		{"another charset", typed("application/json; charset=utf-16"), plain + `type-6"}`, completed("type-6")},
		{"a charset that does not exist", typed("application/json; charset=what"), plain + `type-7"}`, completed("type-7")},
		{"a malformed Content-Type", typed(";,=/"), plain + `type-8"}`, completed("type-8")},

		{"compressed", encoded("gzip"), gzipped(t, plain+`gzip-1"}`), completed("gzip-1")},
		{"compressed, and not said to be JSON", map[string]string{"Content-Encoding": "gzip", "Content-Type": "text/html"}, gzipped(t, plain+`gzip-2"}`), completed("gzip-2")},
		{"compressed, cut", encoded("gzip"), gzipped(t, plain+`gzip-3"}`)[:30], "unreadable "},
		{"compressed, too large", encoded("gzip"), gzipped(t, plain+`gzip-4"`+strings.Repeat(" ", 5<<20)+`}`), "unreadable "},
		{"not compressed, though the header says so", encoded("gzip"), plain + `gzip-5"}`, completed("gzip-5")},
		{"an encoding that nobody knows", encoded("none-such"), plain + `gzip-6"}`, completed("gzip-6")},
		{"an encoding that the backend does not know", encoded("br"), "\x0b\x01\x80{}\x03", "unreadable "},
		{"no event at all", encoded("br"), "null", "unreadable "},
		{"a list", encoded("br"), "[1]", "unreadable "},
		{"nothing", encoded("br"), "", "unreadable "},

		{"half an emoji", nil, field(`"task_id":"half \ud83d","result":"\ude00"`), `task.completed "half \ud83d" {`},
		{"half an emoji in bytes", nil, field(`"task_id":"bytes","result":"` + "\xed\xa0\xbd" + `"`), completed("bytes")},
		{"bytes that are not UTF-8", nil, field(`"task_id":"latin","result":"` + "\xe9" + `"`), completed("latin")},
		{"a byte order mark", nil, "\ufeff" + plain + `mark"}`, completed("mark")},
		{"a line break in an identifier", nil, plain + `a\ntask.failed b"}`, `task.completed "a\ntask.failed b" {`},

		{"numbers that are none", nil, field(`"task_id":"nan","usage":{"cost":NaN,"limits":[Infinity,-Infinity]},"result":"NaN \" NaN"`), completed("nan")},
		{"a large integer", nil, field(`"task_id":"int","usage":{"cost":12345678901234567890}`), completed("int")},
		{"an integer of 5000 digits", nil, field(`"task_id":"digits","usage":{"cost":` + strings.Repeat("9", 5000) + `}`), completed("digits")},
		{"a number that overflows", nil, field(`"task_id":"overflow","usage":{"cost":1e999}`), completed("overflow")},
		{"a key that is there twice", nil, field(`"task_id":"twice","result":1,"result":2`), completed("twice") + `"result": ?2`},
		{"__proto__", nil, field(`"task_id":"proto","__proto__":{"task_id":"x"},"constructor":{"prototype":1},"result":{"__proto__":null}`), completed("proto")},
		{"a deep result", nil, field(`"task_id":"deep","result":` + strings.Repeat("[", 50_000) + strings.Repeat("]", 50_000)), "unreadable "},
		{"as large as Caddy takes it", nil, plain + `full","result":"` + strings.Repeat("x", 4<<20-len(plain)-len(`full","result":""}`)) + `"}`, completed("full")},

		{"no field", nil, `{}`, "ignored "},
		{"no task_id", nil, `{"event_type":"task.failed"}`, "task.failed "},
		{"no event_type", nil, `{"task_id":"untyped"}`, `ignored (null|undefined) untyped`},
		{"fields of null", nil, `{"event_type":null,"task_id":null,"result":null,"usage":null}`, "ignored null null"},
		{"a number for a task_id", nil, field(`"task_id":17`), "task.completed 17 {"},
		{"an object for a task_id", nil, field(`"task_id":{"toString":1,"valueOf":1}`), `task.completed {"toString": ?1`},
		{"a list for an event_type", nil, `{"event_type":["task.completed"],"task_id":"list"}`, `ignored \["task.completed"\] list`},
	}
}

// testOddEvents sends each of them, and its repeat, which must be a duplicate.
func testOddEvents(t *testing.T, url string, backend *caddytest.Process) {
	seen := len(backend.Output())
	for _, odd := range oddEvents(t) {
		if got := odd.post(t, url); got.Status != http.StatusOK || got.Body == caddytest.Duplicate {
			t.Errorf("%s: got %d %.100s, want it taken", odd.name, got.Status, got.Body)
			continue
		}
		if got := odd.post(t, url); got.Status != http.StatusOK || got.Body != caddytest.Duplicate {
			t.Errorf("%s, again: got %d %.100s, want a duplicate", odd.name, got.Status, got.Body)
		}
		written := backend.Output()[seen:]
		lines := regexp.MustCompile(`(?m)^(task|ignored|unreadable).*$`).FindAllString(written, -1)
		if len(lines) != 1 || !regexp.MustCompile("^"+asPattern(odd.line)).MatchString(lines[0]) {
			t.Errorf("%s: the backend wrote %.300q, want one line that begins with %q", odd.name, written, odd.line)
		}
		seen += len(written)
	}
}

// asPattern turns a line into a regular expression, in which only "\", "{" and
// "." are literal.
func asPattern(line string) string {
	return strings.NewReplacer(`\[`, `\[`, `\]`, `\]`, `\`, `\\`, `{`, `\{`, `.`, `\.`).Replace(line)
}

func (odd oddEvent) post(t *testing.T, url string) caddytest.Reply {
	t.Helper()
	r := caddytest.SignedWith(demoSecret, url+"/webhooks/instantapi", []byte(odd.body))
	r.Header.Del("Content-Type")
	for name, value := range odd.header {
		r.Header.Set(name, value)
	}
	return caddytest.Do(t, r)
}

func gzipped(t *testing.T, text string) string {
	t.Helper()
	var compressed bytes.Buffer
	w := gzip.NewWriter(&compressed)
	_, err := io.WriteString(w, text)
	if closeErr := w.Close(); err != nil || closeErr != nil {
		t.Fatal(err, closeErr)
	}
	return compressed.String()
}
