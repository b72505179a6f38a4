package instantapi

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
)

// A body that only some parsers accept is for the backend to judge: it gets
// every byte, and a repeat is a duplicate all the same.
func TestBodiesOfOtherDialectsAreForwarded(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s := caddytest.Run(t, caddytest.Guard(b, ""))
	for i, result := range []string{
		`NaN`, `Infinity`, `[-Infinity,NaN]`, `01`, `[1,2,]`, `{"a":.5}`,
		`"\ud83d"`, `["\ude00\ud83d"]`, "\"\xff\"", "\"line\nline\x00\"", `"\x"`,
		strings.Repeat(`{"a":[`, 50_000) + strings.Repeat(`]}`, 50_000),
	} {
		body := fmt.Appendf(nil, `{"event_type":"task.completed","task_id":"%d","result":%s}`, i, result)
		for _, want := range []string{"from the backend", caddytest.Duplicate} {
			if got := s.Post(t, "/", body); got.Status != 200 || got.Body != want {
				t.Errorf("%.60q: got %d %s, want %s", body, got.Status, got.Body, want)
			}
		}
		if all := b.Deliveries(); len(all) != i+1 || !bytes.Equal(all[i].Body, body) {
			t.Errorf("%.60q: did not reach the backend as it was", body)
		}
	}
}

// A byte order mark in front does not make another event of the same fields.
func TestByteOrderMarkMakesNoNewEvent(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	s := caddytest.Run(t, caddytest.Guard(b, ""))
	marked := append([]byte("\ufeff"), caddytest.Event("1")...)
	if got := s.Post(t, "/", marked); got.Status != 200 || got.Body != "from the backend" {
		t.Errorf("got %d %s", got.Status, got.Body)
	}
	s.Send(t, "1").WantDuplicate(t)
	b.WantDeliveries(t, 1)
	if got := b.Deliveries()[0].Body; !bytes.Equal(got, marked) {
		t.Errorf("backend got %q, want %q", got, marked)
	}
}

// A field that is not JSON, or holds characters that had to be replaced, may
// mean anything: only the same bytes are the same event.
func TestUnclearFieldsIdentifyNoEvent(t *testing.T) {
	for _, taskID := range []string{`NaN`, `nan`, `-Infinity`, `01`, `[1,]`, "\"a\nb\"", `"\x"`, `"\ud83d"`, "\"\xff\"", `null`, `""`} {
		t.Run(taskID, func(t *testing.T) {
			b := caddytest.NewBackend(t, nil)
			s := caddytest.Run(t, caddytest.Guard(b, ""))
			for _, result := range []string{"1", "2"} {
				body := fmt.Appendf(nil, `{"event_type":"task.completed","task_id":%s,"result":%s}`, taskID, result)
				for _, want := range []string{"from the backend", caddytest.Duplicate} {
					if got := s.Post(t, "/", body); got.Body != want {
						t.Errorf("%s: got %d %s, want %s", body, got.Status, got.Body, want)
					}
				}
			}
			b.WantDeliveries(t, 2)
		})
	}
}

// Ten million brackets are a body like any other. A recursive parser would need
// gigabytes for them.
func TestTenMillionBracketsPass(t *testing.T) {
	const depth = 5_000_000
	b := caddytest.NewBackend(t, nil)
	s := caddytest.Run(t, caddytest.Guard(b, "max_body_size 32MiB"))
	body := []byte(`{"event_type":"task.completed","task_id":"1","result":` + strings.Repeat("[", depth) + strings.Repeat("]", depth) + `}`)
	start := time.Now()
	if got := s.Post(t, "/", body); got.Status != 200 || got.Body != "from the backend" {
		t.Errorf("got %d %s", got.Status, got.Body)
	}
	s.Post(t, "/", append(body, ' ')).WantDuplicate(t)
	s.Post(t, "/", body[:len(body)-1]).WantJSON(t, 400, caddytest.BadJSON)
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
}

// The log says what is wrong with a body and where, and shows one byte of it.
func TestLogSaysWhereABodyIsNotAnObject(t *testing.T) {
	const secret = "do not tell"
	b := caddytest.NewBackend(t, nil)
	s := caddytest.Run(t, caddytest.Guard(b, ""))
	tests := []struct{ body, reason string }{
		{"", "it is empty"},
		{"<html>" + secret, "byte 0 is '<', not '{'"},
		{"\x1f\x8b" + secret, "byte 0 is 0x1f, not '{'"},
		{`{"a" "` + secret + `"}`, `byte 5 is '"', not ':'`},
		{`{"a":"` + secret, "it ends at byte 17, inside the string that begins at byte 5"},
		{`{"a":1} ` + secret, "byte 8 is 'd', not the end"},
	}
	for _, test := range tests {
		s.Post(t, "/", []byte(test.body)).WantJSON(t, 400, caddytest.BadJSON)
	}
	b.WantDeliveries(t, 0)
	var got []line
	caddytest.Eventually(t, "lines are written", func() bool {
		got = handlerLines(t, s)
		return len(got) >= len(tests)
	})
	for i, test := range tests {
		if want := "body is not a JSON object: " + test.reason; got[i].Outcome != "bad_json" || got[i].Reason != want {
			t.Errorf("%q: got %+v, want %s", test.body, got[i], want)
		}
	}
	if strings.Contains(s.Logged(), secret) {
		t.Error("the log holds a body")
	}
}
