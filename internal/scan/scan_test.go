package scan

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

var names = []string{"task_id", "event_type"}

// members is Members for names, into values that were used before.
func members(body []byte) (values []jsontext.Value, err error) {
	values = []jsontext.Value{jsontext.Value(`"old"`), jsontext.Value(`"old"`)}
	err = Members(body, names, values)
	return values, err
}

func TestMembersAreFound(t *testing.T) {
	tests := []struct{ body, taskID, eventType string }{
		{`{}`, ``, ``},
		{`{"task_id":"1"}`, `"1"`, ``},
		{" \t\r\n{ \"event_type\" : \"e\" , \"task_id\"\t: 17 } \n", `17`, `"e"`},
		{"\ufeff{\"task_id\":\"1\"}", `"1"`, ``},
		{"\ufeff \n{\"task_id\":\"1\"}", `"1"`, ``},
		{`{"result":{"task_id":1},"task_id":null}`, `null`, ``},
		{`{"result":"\",\"task_id\":1","task_id":"\\"}`, `"\\"`, ``},
		{`{"result":"` + strings.Repeat(`\"`, 200) + `\\","task_id":"\\\""}`, `"\\\""`, ``},
		{`{"result":[{"a":"]}"},"}"],"task_id":{}}`, `{}`, ``},
		{`{"task_id":1,"task_id":2,"event_type":{"a":[]}}`, `2`, `{"a":[]}`},

		// Not JSON, but its end can be found.
		{`{"task_id":NaN,"event_type":-Infinity}`, `NaN`, `-Infinity`},
		{`{"a":[NaN,Infinity,01,+1,.5,tru],"b":01,"task_id":tru}`, `tru`, ``},
		{`{"a":[1,2,],"b":{,},"c":[1 2:3],"task_id":1}`, `1`, ``},
		{`{"a":"\x \u12","task_id":"\ud83d"}`, `"\ud83d"`, ``},
		{"{\"a\":\"\n\x00\xff\",\"task_id\":\"\t\"}", "\"\t\"", ``},
		{"{\"a\":[\x00\xff\\],\"task_id\":1}", `1`, ``},
		{`{"a":[{]],"task_id":1}`, `1`, ``},
	}
	for _, test := range tests {
		values, err := members([]byte(test.body))
		if err != nil || string(values[0]) != test.taskID || string(values[1]) != test.eventType {
			t.Errorf("%q: got %q %v, want %q and %q", test.body, values, err, test.taskID, test.eventType)
		}
	}
}

// A name is what its characters are, however they are written.
func TestNamesAreComparedByTheirCharacters(t *testing.T) {
	tests := []struct {
		written, wanted string
		same            bool
	}{
		{`task_id`, "task_id", true},
		{`task\u005fid`, "task_id", true},
		{`\u0074\u0061\u0073\u006B\u005F\u0069\u0064`, "task_id", true},
		{`\ud83d\ude80`, "\U0001f680", true},
		{"\U0001f680", "\U0001f680", true},
		{`\u00fc`, "ü", true},
		{`a\/\b\f\n\r\t\"\\`, "a/\b\f\n\r\t\"\\", true},
		{`a\\b`, `a\b`, true},
		{``, "", true},
		{`\ud83d`, "\ufffd", true}, // as the library reads it, and Go's own
		{"\xff", "\ufffd", true},
		{strings.Repeat(`\u0078`, 1000), strings.Repeat("x", 1000), true},

		{`Task_id`, "task_id", false},
		{`task_id `, "task_id", false},
		{`task\u005f`, "task_id", false},
		{`a\\b`, `a\\b`, false},
		{`task\u0000_id`, "task_id", false},
		{`\ude80\ud83d`, "\U0001f680", false},
		{`task\_id`, "task_id", false}, // no JSON says this
		{`task_id\x`, "task_id", false},
		{"task_id\n", "task_id", false},
		{`task\u5f_id`, "task_id", false},
		{`task\x5fid`, "task_id", false},
		{"task\nid", "task\nid", false},
	}
	for _, test := range tests {
		body := fmt.Appendf(nil, `{"%s":1}`, test.written)
		values := make([]jsontext.Value, 1)
		if err := Members(body, []string{test.wanted}, values); err != nil {
			t.Errorf("%q: %v", body, err)
		}
		if got := values[0] != nil; got != test.same {
			t.Errorf("%q is %q: got %t, want %t", test.written, test.wanted, got, test.same)
		}
	}
}

func TestErrorsSayWhatIsWrongAndWhere(t *testing.T) {
	const name, member = "a name in double quotes", "',' or '}'"
	tests := []struct{ body, want string }{
		{"", "it is empty"},
		{" \n", "it ends at byte 2, where '{' is expected"},
		{"\ufeff", "it ends at byte 3, where '{' is expected"},
		{"<html>", "byte 0 is '<', not '{'"},
		{"\x1f\x8b\x08", "byte 0 is 0x1f, not '{'"},
		{"\xff\xfe{\x00", "byte 0 is 0xff, not '{'"},
		{"\ufeff\ufeff{}", "byte 3 is 0xef, not '{'"},
		{" \ufeff{}", "byte 1 is 0xef, not '{'"},
		{" [1]", "byte 1 is '[', not '{'"},
		{"null", "byte 0 is 'n', not '{'"},
		{"'", `byte 0 is '\'', not '{'`},
		{"{", "it ends at byte 1, where " + name + " is expected"},
		{"{a:1}", "byte 1 is 'a', not " + name},
		{"{'a':1}", `byte 1 is '\'', not ` + name},
		{"{,}", "byte 1 is ',', not " + name},
		{`{"a`, "it ends at byte 3, inside the string that begins at byte 1"},
		{`{"a\"`, "it ends at byte 5, inside the string that begins at byte 1"},
		{`{"a"`, "it ends at byte 4, where ':' is expected"},
		{`{"a" 1}`, "byte 5 is '1', not ':'"},
		{`{"a":`, "it ends at byte 5, where a value is expected"},
		{`{"a":}`, "byte 5 is '}', not a value"},
		{`{"a":,"b":1}`, "byte 5 is ',', not a value"},
		{`{"a":'b'}`, `byte 5 is '\'', not a value`},
		{`{"a":]}`, "byte 5 is ']', not a value"},
		{`{"a":1`, "it ends at byte 6, where " + member + " is expected"},
		{`{"a":1"b":2}`, `byte 6 is '"', not ` + member},
		{`{"a":1 "b":2}`, `byte 7 is '"', not ` + member},
		{`{"a":1/*,*/}`, "byte 6 is '/', not " + member},
		{`{"a":tru` + "\x00}", "byte 8 is 0x00, not " + member},
		{`{"a":1,}`, "byte 7 is '}', not " + name},
		{`{"a":1,,}`, "byte 7 is ',', not " + name},
		{`{"a":1;}`, "byte 6 is ';', not " + member},
		{`{"a":1]`, "byte 6 is ']', not " + member},
		{`{"a":"b","c":"d`, "it ends at byte 15, inside the string that begins at byte 13"},
		{`{"a":[1,2`, "it ends at byte 9, inside the array that begins at byte 5"},
		{`{"a":{"b":[1]`, "it ends at byte 13, inside the object that begins at byte 5"},
		{`{"a":["b`, "it ends at byte 8, inside the string that begins at byte 6"},
		{`{"a":[1}`, "byte 7 is '}', not ']'"},
		{`{"a":{"b":1]}`, "byte 11 is ']', not '}'"},
		{`{"a":[{]}}`, "byte 8 is '}', not ']'"},
		{`{}}`, "byte 2 is '}', not the end"},
		{`{} {}`, "byte 3 is '{', not the end"},
		{"{}\x00", "byte 2 is 0x00, not the end"},
	}
	for _, test := range tests {
		_, err := members([]byte(test.body))
		if err == nil || err.Error() != "body is not a JSON object: "+test.want {
			t.Errorf("%q: got %v, want %s", test.body, err, test.want)
		}
	}
}

// Names are found even in front of a fault: mentionsTask relies on that.
func TestMembersBeforeAFaultAreFound(t *testing.T) {
	values, err := members([]byte(`{"task\u005fid":1,"result":[`))
	if err == nil || string(values[0]) != "1" || values[1] != nil {
		t.Errorf("got %q %v", values, err)
	}
}

// The time grows only with the length, whatever a sender writes: a scan that
// reads the same bytes again for each byte would take hours for these bodies.
func TestTimeGrowsWithTheLengthOnly(t *testing.T) {
	const size = 2 << 20
	for name, item := range map[string]string{
		"open brackets":   `[`,
		"open braces":     `{`,
		"strings":         `"`,
		"escaped quotes":  `\"`,
		"backslashes":     `\\`,
		"runs":            `\\\\\\\\\\\\\\\\\\\\\"`,
		"names":           `":1,"`,
		"escaped names":   `\u0041":1,"`,
		"broken names":    `\A":1,"`,
		"brackets":        `":[],"`,
		"quotes in array": `":["\"],"`,
		"white space":     `":1    ,   "`,
	} {
		for _, front := range []string{`{"`, `{"a":"`, `{"a":[`, `{"a":["`} {
			body := append([]byte(front), bytes.Repeat([]byte(item), size/len(item))...)
			start := time.Now()
			_, _ = members(body)
			if took := time.Since(start); took > 20*time.Second {
				t.Errorf("%s behind %s: %s for %d MiB", name, front, took, size>>20)
			}
		}
	}
}

// Ten million brackets need no more than two do. The average over several runs
// leaves out what the runtime itself allocates now and then.
func TestNestingTakesNoMemory(t *testing.T) {
	const depth = 10_000_000
	for _, brackets := range []string{"[]", "{}"} {
		nested := strings.Repeat(brackets[:1], depth) + strings.Repeat(brackets[1:], depth)
		body := []byte(`{"result":` + nested + `,"task_id":1}`)
		values := make([]jsontext.Value, len(names))
		if n := testing.AllocsPerRun(5, func() {
			if err := Members(body, names, values); err != nil || string(values[0]) != "1" {
				t.Errorf("got %.20q %v", values, err)
			}
		}); n > 0 {
			t.Errorf("%v allocations", n)
		}
	}
}

func TestNoAllocations(t *testing.T) {
	body := []byte(`{"event_type":"task.completed","status":"completed","result":{"text":"Gr\u00fc\u00dfe\n","n":[1,2]},"usage":{"cost":0.01},"task_id":"task_1"}`)
	if n := testing.AllocsPerRun(100, func() {
		var values [2]jsontext.Value
		if err := Members(body, names, values[:]); err != nil {
			t.Error(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestText(t *testing.T) {
	tests := []struct {
		value, want string
		exact       bool
	}{
		{``, ``, true},
		{`null`, ``, true},
		{`""`, ``, true},
		{`"a\n\u00fc\"\ud83d\ude80"`, "a\nü\"\U0001f680", true},
		{`17`, `17`, true},
		{`-1.50e+3`, `-1.50e+3`, true},
		{`true`, `true`, true},
		{`[1, {"a":"b"}]`, `[1, {"a":"b"}]`, true},
		{"{\"a\":\"\xff\\ud83d\",\"a\":1}", "{\"a\":\"\xff\\ud83d\",\"a\":1}", true},

		{`"a\ud83d"`, "a\ufffd", false},
		{"\"a\xff\"", "a\ufffd", false},
		{"\"a\nb\"", ``, false},
		{`"a\x"`, ``, false},
		{`NaN`, ``, false},
		{`nan`, ``, false},
		{`-Infinity`, ``, false},
		{`tru`, ``, false},
		{`01`, ``, false},
		{`[1,]`, ``, false},
		{`[NaN]`, ``, false},
		{strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000), ``, false},
	}
	for _, test := range tests {
		said, exact := AppendText([]byte("in front "), jsontext.Value(test.value))
		if string(said) != "in front "+test.want || exact != test.exact {
			t.Errorf("%.40q: got %q %t, want %q %t", test.value, said, exact, test.want, test.exact)
		}
		if got := Text(jsontext.Value(test.value)); got != test.want {
			t.Errorf("%.40q: got %q, want %q", test.value, got, test.want)
		}
	}
}
