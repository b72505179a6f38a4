package scan

import (
	"crypto/hmac"
	"crypto/sha256"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
)

// BenchmarkScan compares Members with the library, which checks all JSON, and
// with the HMAC of the same bytes, for events with results of different kinds.
// Compare figures of one run only: machines are noisy.
func BenchmarkScan(b *testing.B) {
	const size = 64 << 10
	for _, kind := range []struct{ name, result string }{
		{"small", `{"text":"The second item (Shipping) has no tax."}`},
		{"text", `{"text":"` + strings.Repeat(`The second item (Shipping) has no tax, Müller says. `, size/52) + `"}`},
		{"escapes", `{"text":"` + strings.Repeat(`The second item (\"Shipping\") has no tax, M\u00fcller says.\n`, size/62) + `"}`},
		{"json-in-text", `{"text":"[` + strings.Repeat(`{\"id\":17,\"name\":\"Shipping\",\"tax\":null,\"price\":12.50},`, size/62) + `{}]"}`},
		{"backslashes", `{"text":"` + strings.Repeat(`\\`, size/2) + `"}`},
		{"table", `{"rows":[` + strings.Repeat(`{"id":17,"name":"Shipping","tax":null,"price":12.50},`, size/53) + `{}]}`},
		{"numbers", `{"embedding":[` + strings.Repeat(`-0.0123456,`, size/11) + `0]}`},
		{"nesting", strings.Repeat(`[`, size/2) + strings.Repeat(`]`, size/2)},
		{"members", `1` + strings.Repeat(`,"name":"value"`, size/15)},
		{"escaped-names", `1` + strings.Repeat(`,"n\u00e4me":"value"`, size/20)},
	} {
		body := []byte(`{"event_type":"task.completed","status":"completed","result":` + kind.result + `,"usage":{"cost":0.01},"task_id":"task_1"}`)
		fields := []string{"event_type", "task_id", "status", "event_type", "task_id"}
		measure := func(name string, do func()) {
			b.Run(kind.name+"/"+name, func(b *testing.B) {
				b.SetBytes(int64(len(body)))
				b.ReportAllocs()
				for b.Loop() {
					do()
				}
			})
		}
		values := make([]jsontext.Value, len(fields))
		measure("scan", func() {
			if err := Members(body, fields, values); err != nil {
				b.Fatal(err)
			}
		})
		measure("library", func() {
			if _, ok := readWithLibrary(body, fields); !ok && kind.name != "nesting" { // deeper than it goes
				b.Fatal("the library does not take it")
			}
		})
		mac := hmac.New(sha256.New, []byte("secret"))
		var sum [sha256.Size]byte
		measure("hmac", func() {
			mac.Reset()
			mac.Write(body)
			mac.Sum(sum[:0])
		})
	}
}
