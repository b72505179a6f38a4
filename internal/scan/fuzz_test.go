package scan

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
)

// FuzzMembers compares Members with two references: the library, which accepts
// fewer documents, and an implementation of the same rules that reads one byte
// at a time, which accepts the same ones.
func FuzzMembers(f *testing.F) {
	for _, seed := range seeds() {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		body = slices.Clip(body) // what is read behind it is a panic
		before := slices.Clone(body)
		values, err := members(body)
		if !slices.Equal(before, body) {
			t.Fatal("the body was changed")
		}
		want, ok := readSlowly(body)
		if ok != (err == nil) {
			t.Fatalf("%q: got %v, read slowly it is %t", body, err, ok)
		}
		checkError(t, body, err)
		if ok {
			compareValues(t, body, values, want)
		}
		if want, ok := readWithLibrary(body, names); ok {
			if err != nil {
				t.Fatalf("%q: got %v, but the library takes it", body, err)
			}
			compareValues(t, body, values, want)
		}
		for _, value := range values {
			compareText(t, value)
		}
	})
}

// seeds are documents of each kind, and texts that are nearly documents.
func seeds() []string {
	all := []string{
		`{}`, ` { } `, "\ufeff{}", `{"event_type":"task.completed","task_id":"1"}`, `{"task_id":1,"task_id":null}`, `{"task_id":{"a":[1,2,{}]}}`,
		`{"task\u005fid":"\ud83d\ude80"}`, `{"task_id":"\ud83d"}`, "{\"task_id\":\"\xff\"}", `{"a":`, `[]`, `{}{}`, `{"":""}`, `{"task\_id":1}`, `{"task_\ud83d":1}`,
		`{"task_id":-0.1e+5}`, `{"task_id":01}`, `{"task_id":[1,]}`, `{"task_id":1,}`, `{"task_id":[ ],"event_type":{ }}`, `{"task_id":tru}`, `{"task_id":-}`, `{"task_id":1.}`,
		`{"task_id":NaN,"event_type":-Infinity}`, `{"task_id":[NaN}`, `{"task_id":[{]],"event_type":1}`, `{"task_id":"\u12g4"}`, "{\"task_id\":\"a\n\"}", `{'task_id':1}`, `{"a":1 /* , */ }`,
		`{"result":"{\"task_id\":\"\\\"1\\\"\",\"task_id\":[\"\\\\\"]}","task_id":"\\"}`,
		strings.Repeat(`{"a":`, 50) + `1` + strings.Repeat(`}`, 50), `{"a":` + strings.Repeat(`[`, 50) + strings.Repeat(`]`, 50) + `}`, `{"a":["\\\\` + strings.Repeat(`\"`, 100) + `"]}`,
	}
	for run := range 40 {
		all = append(all, `{"task_id":"`+strings.Repeat(`\`, run)+`","event_type":"\"`+strings.Repeat(`\`, run)+`","a":[]}`)
	}
	// At each place of what is looked at together.
	for _, c := range []string{"\x00", "\x1f", " ", `"`, `\"`, `\\"`, `\`, "{", "}", "[", "]", "Y", "_", "\x7f", "\x80", "\xff", "\xdb", "\xa2"} {
		for at := range 20 {
			text := strings.Repeat(".", at) + c + strings.Repeat(".", 20-at)
			all = append(all, `{"task_id":"`+text+`"}`, `{"task_id":"\"`+text+`"}`, `{"task_id":[`+text+`]}`)
		}
	}
	return all
}

// readSlowly reads body by the rules that Members follows, one byte at a time.
func readSlowly(body []byte) (values []jsontext.Value, ok bool) {
	values = make([]jsontext.Value, len(names))
	rest := strings.TrimPrefix(string(body), "\ufeff")
	skip := func(pattern *regexp.Regexp) (token string, ok bool) {
		token = pattern.FindString(rest)
		rest = rest[len(token):]
		return token, token != ""
	}
	if _, ok := skip(openBrace); !ok {
		return nil, false
	}
	if _, ok := skip(closeBrace); ok {
		return values, rest == ""
	}
	for {
		name, ok := skip(quoted)
		if !ok {
			return nil, false
		}
		if _, ok := skip(colon); !ok {
			return nil, false
		}
		value, ok := skip(scalar)
		if !ok && rest != "" && strings.Contains("{[", rest[:1]) {
			value, ok = nested(rest)
			rest = rest[len(value):]
		}
		if !ok {
			return nil, false
		}
		if i := slices.Index(names, characters(name)); i >= 0 {
			values[i] = jsontext.Value(value)
		}
		if _, ok := skip(comma); ok {
			continue
		}
		_, ok = skip(closeBrace)
		return values, ok && rest == ""
	}
}

var (
	openBrace  = regexp.MustCompile(`^[ \t\r\n]*\{[ \t\r\n]*`)
	closeBrace = regexp.MustCompile(`^[ \t\r\n]*\}[ \t\r\n]*`)
	colon      = regexp.MustCompile(`^[ \t\r\n]*:[ \t\r\n]*`)
	comma      = regexp.MustCompile(`^[ \t\r\n]*,[ \t\r\n]*`)
	quoted     = regexp.MustCompile(`(?s)^"(\\.|[^"\\])*"`)
	scalar     = regexp.MustCompile(`(?s)^("(\\.|[^"\\])*"|[-+._A-Za-z0-9]+)`)
)

// nested returns the object or array that text begins with.
func nested(text string) (value string, ok bool) {
	depth := 0
	for at := 0; at < len(text); at++ {
		switch text[at] {
		case '"':
			inside := quoted.FindString(text[at:])
			if inside == "" {
				return "", false
			}
			at += len(inside) - 1
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				pair := text[:1] + text[at:at+1]
				return text[:at+1], pair == "{}" || pair == "[]"
			}
		}
	}
	return "", false
}

// characters returns the text of a quoted name, or something that equals no
// name.
func characters(name string) string {
	dec := jsontext.NewDecoder(strings.NewReader(name), jsontext.AllowInvalidUTF8(true))
	token, err := dec.ReadToken()
	if err != nil {
		return "\xff"
	}
	return token.String()
}

// libraries keeps decoders, whose state outweighs a small event.
var libraries = sync.Pool{New: func() any { return new(jsontext.Decoder) }}

// readWithLibrary reads body with the library, which checks all of it.
func readWithLibrary(body []byte, names []string) (values []jsontext.Value, ok bool) {
	dec := libraries.Get().(*jsontext.Decoder)
	defer libraries.Put(dec)
	dec.Reset(bytes.NewBuffer(body), lenient...)
	if token, err := dec.ReadToken(); err != nil || token.Kind() != jsontext.KindBeginObject {
		return nil, false
	}
	values = make([]jsontext.Value, len(names))
	for dec.PeekKind() == jsontext.KindString {
		token, err := dec.ReadToken()
		if err != nil {
			return nil, false
		}
		name := token.String()
		value, err := dec.ReadValue()
		if err != nil {
			return nil, false
		}
		end := dec.InputOffset() // value itself is good until the next read only
		for i := range names {
			if names[i] == name {
				values[i] = body[end-int64(len(value)) : end]
			}
		}
	}
	if _, err := dec.ReadToken(); err != nil { // the closing brace
		return nil, false
	}
	_, err := dec.ReadToken()
	return values, errors.Is(err, io.EOF)
}

func compareValues(t *testing.T, body []byte, got, want []jsontext.Value) {
	t.Helper()
	for i := range want {
		if string(got[i]) != string(want[i]) || (got[i] == nil) != (want[i] == nil) {
			t.Errorf("%q: %s is %q, want %q", body, names[i], []byte(got[i]), []byte(want[i]))
		}
	}
}

// compareText compares what a string says with what encoding/json reads.
func compareText(t *testing.T, value jsontext.Value) {
	t.Helper()
	said, exact := AppendText(nil, value)
	var want string
	if exact && json.Unmarshal(value, &want) == nil && string(said) != want {
		t.Errorf("%q says %q, want %q", []byte(value), said, want)
	}
	if exact && len(value) > 0 && !json.Valid(value) {
		t.Errorf("%q is exact and is not JSON", []byte(value))
	}
}

// checkError checks that an error points into the body and quotes nothing of it
// but the byte at fault.
func checkError(t *testing.T, body []byte, err error) {
	t.Helper()
	if err == nil {
		return
	}
	fault, ok := errors.AsType[*Error](err)
	if !ok || fault.Offset < 0 || fault.Offset > len(body) {
		t.Fatalf("%q: got %#v", body, err)
	}
	if !knownError.MatchString(err.Error()) {
		t.Errorf("%q: got %v", body, err)
	}
}

var knownError = regexp.MustCompile(`^body is not a JSON object: (it is empty|` +
	`it ends at byte \d+, (where (` + wanted + `) is expected|inside the (string|object|array) that begins at byte \d+)|` +
	`byte \d+ is ('([!-~]|\\['\\])'|0x[0-9a-f]{2}), not (` + wanted + `))$`)

const wanted = `'[{}\]:]'|a name in double quotes|a value|',' or '}'|the end`
