package instantapi

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// The judge is encoding/json: what it takes for an object must be one here, with
// the same values.
func FuzzScanEvent(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"event_type":"task.completed","task_id":"1"}`, `{"task_id":1,"task_id":null}`, `{"task_id":{"a":[1,2,{}]}}`,
		`{"task\u005fid":"\ud83d\ude80"}`, `{"task_id":"\ud83d"}`, "{\"task_id\":\"\xff\"}", `{"a":`, `[]`, `{}{}`, ` { } `,
		`{"task_id":-0.1e+5}`, `{"task_id":01}`, `{"task_id":[1,]}`, `{"task_id":1,}`, `{"task_id":[ ],"event_type":{ }}`, `{"task_id":tru}`, `{"task_id":"\u12g4"}`, `{"task_id":-}`, `{"task_id":1.}`, `{"":""}`, "\ufeff{}", `{"task_id":"a` + "\n" + `"}`, strings.Repeat(`{"a":`, 50) + `1` + strings.Repeat(`}`, 50),
	} {
		f.Add([]byte(seed))
	}
	for _, c := range []byte{0, 0x1f, ' ', '"', '\\', 0x7f, 0x80, 0xff} { // at each place of a word
		for at := range 17 {
			text := []byte("................")
			f.Add([]byte(`{"task_id":"` + string(text[:at]) + string(c) + string(text[at:]) + `"}`))
		}
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		before := slices.Clone(body)
		values, err := scanEvent(body, []string{"task_id", "event_type"})
		if !slices.Equal(before, body) {
			t.Fatal("the body was changed")
		}
		var want map[string]json.RawMessage
		wantErr := json.Unmarshal(body, &want)
		if valid := wantErr == nil && want != nil; (err == nil) != valid {
			t.Fatalf("%q: got %v, encoding/json says %v", body, err, wantErr)
		}
		if err != nil || !utf8.Valid(body) {
			return // encoding/json replaces invalid UTF-8 in names and values
		}
		for i, name := range []string{"task_id", "event_type"} {
			if string(values[i]) != string(want[name]) {
				t.Errorf("%q: %s is %q, want %q", body, name, values[i], want[name])
			}
			var s string
			if said, exact := appendText(nil, values[i]); exact && json.Unmarshal(want[name], &s) == nil && string(said) != s {
				t.Errorf("%q: %s says %q, want %q", body, name, said, s)
			}
		}
	})
}

func TestScannedValuesOutliveTheScanner(t *testing.T) {
	body := []byte(`{"task_id":"first"}`)
	values, err := scanEvent(body, []string{"task_id"})
	if err != nil {
		t.Fatal(err)
	}
	for range 100 { // the same scanner among them
		if _, err := scanEvent([]byte(`{"task_id":"other"}`), []string{"task_id"}); err != nil {
			t.Fatal(err)
		}
	}
	if string(values[0]) != `"first"` {
		t.Errorf("value became %s", values[0])
	}
}

// As deep as encoding/json goes, and no deeper.
func TestNestingIsBounded(t *testing.T) {
	for _, depth := range []int{9_999, 10_000} { // with one object around it
		for _, body := range []string{
			`{"a":` + strings.Repeat(`[`, depth) + strings.Repeat(`]`, depth) + `}`,
			strings.Repeat(`{"a":`, depth) + `{}` + strings.Repeat(`}`, depth),
		} {
			_, err := scanEvent([]byte(body), nil)
			if ok := json.Valid([]byte(body)); (err == nil) != ok {
				t.Errorf("depth %d of %.6s: got %v, encoding/json says %v", depth+1, body, err, ok)
			}
		}
	}
	if _, err := scanEvent([]byte(`{"a":`+strings.Repeat(`[`, 4<<20)), nil); err == nil {
		t.Error("open brackets are an object")
	}
}
