package instantapi

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"
)

// What only some parsers take is for the backend to judge: it gets every byte,
// and a repeat is a duplicate all the same.
func TestBodiesOfOtherDialectsAreForwarded(t *testing.T) {
	b := newBackend(t, nil)
	s := run(t, guard(b, ""))
	for i, result := range []string{
		`NaN`, `Infinity`, `[-Infinity,NaN]`, `01`, `[1,2,]`, `{"a":.5}`,
		`"\ud83d"`, `["\ude00\ud83d"]`, "\"\xff\"", "\"line\nline\x00\"", `"\x"`,
		strings.Repeat(`{"a":[`, 50_000) + strings.Repeat(`]}`, 50_000),
	} {
		body := fmt.Appendf(nil, `{"event_type":"task.completed","task_id":"%d","result":%s}`, i, result)
		for _, want := range []string{"from the backend", bodyDuplicate} {
			if got := do(t, signed(s.url("/"), body)); got.status != 200 || got.body != want {
				t.Errorf("%.60q: got %d %s, want %s", body, got.status, got.body, want)
			}
		}
		if all := b.deliveries(); len(all) != i+1 || !bytes.Equal(all[i].body, body) {
			t.Errorf("%.60q: did not reach the backend as it was", body)
		}
	}
}

// A byte order mark in front makes no other event of it.
func TestByteOrderMarkMakesNoNewEvent(t *testing.T) {
	b := newBackend(t, nil)
	s := run(t, guard(b, ""))
	marked := append([]byte("\ufeff"), taskEvent("1")...)
	if got := do(t, signed(s.url("/"), marked)); got.status != 200 || got.body != "from the backend" {
		t.Errorf("got %d %s", got.status, got.body)
	}
	do(t, signed(s.url("/"), taskEvent("1"))).wantJSON(t, 200, bodyDuplicate)
	b.wantDeliveries(t, 1)
	if got := b.deliveries()[0].body; !bytes.Equal(got, marked) {
		t.Errorf("backend got %q, want %q", got, marked)
	}
}

// Where a field is not JSON, or holds characters that had to be replaced, it may
// mean anything: only the same bytes are the same event.
func TestUnclearFieldsIdentifyNoEvent(t *testing.T) {
	for _, taskID := range []string{`NaN`, `nan`, `-Infinity`, `01`, `[1,]`, "\"a\nb\"", `"\x"`, `"\ud83d"`, "\"\xff\"", `null`, `""`} {
		t.Run(taskID, func(t *testing.T) {
			b := newBackend(t, nil)
			s := run(t, guard(b, ""))
			for _, result := range []string{"1", "2"} {
				body := fmt.Appendf(nil, `{"event_type":"task.completed","task_id":%s,"result":%s}`, taskID, result)
				for _, want := range []string{"from the backend", bodyDuplicate} {
					if got := do(t, signed(s.url("/"), body)); got.body != want {
						t.Errorf("%s: got %d %s, want %s", body, got.status, got.body, want)
					}
				}
			}
			b.wantDeliveries(t, 2)
		})
	}
}

// Ten million brackets are a body like any other. Read with a recursion, they
// would take gigabytes.
func TestTenMillionBracketsPass(t *testing.T) {
	const depth = 5_000_000
	b := newBackend(t, nil)
	s := run(t, guard(b, "max_body_size 32MiB"))
	body := []byte(`{"event_type":"task.completed","task_id":"1","result":` + strings.Repeat("[", depth) + strings.Repeat("]", depth) + `}`)
	start := time.Now()
	if got := do(t, signed(s.url("/"), body)); got.status != 200 || got.body != "from the backend" {
		t.Errorf("got %d %s", got.status, got.body)
	}
	do(t, signed(s.url("/"), append(body, ' '))).wantJSON(t, 200, bodyDuplicate)
	do(t, signed(s.url("/"), body[:len(body)-1])).wantJSON(t, 400, `{"error": "Invalid JSON"}`)
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
}

// The log says what is wrong with a body and where, and shows one byte of it.
func TestLogSaysWhereABodyIsNotAnObject(t *testing.T) {
	const secret = "do not tell"
	b := newBackend(t, nil)
	s := run(t, guard(b, ""))
	tests := []struct{ body, reason string }{
		{"", "it is empty"},
		{"<html>" + secret, "byte 0 is '<', not '{'"},
		{"\x1f\x8b" + secret, "byte 0 is 0x1f, not '{'"},
		{`{"a" "` + secret + `"}`, `byte 5 is '"', not ':'`},
		{`{"a":"` + secret, "it ends at byte 17, inside the string that begins at byte 5"},
		{`{"a":1} ` + secret, "byte 8 is 'd', not the end"},
	}
	for _, test := range tests {
		do(t, signed(s.url("/"), []byte(test.body))).wantJSON(t, 400, `{"error": "Invalid JSON"}`)
	}
	b.wantDeliveries(t, 0)
	var got []line
	eventually(t, "lines are written", func() bool {
		got = s.lines()
		return len(got) >= len(tests)
	})
	for i, test := range tests {
		if want := "body is not a JSON object: " + test.reason; got[i].Outcome != "bad_json" || got[i].Reason != want {
			t.Errorf("%q: got %+v, want %s", test.body, got[i], want)
		}
	}
	if strings.Contains(s.logged(), secret) {
		t.Error("the log holds a body")
	}
}
