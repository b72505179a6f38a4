package main

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/instantapi/caddy-instantapi-verify/signature"
)

func TestEventsAreSigned(t *testing.T) {
	for _, size := range []int{minimumSize, minimumSize + 1, 1 << 10, 64 << 10} {
		tmpl, err := newTemplate(size)
		if err != nil {
			t.Fatal(err)
		}
		if len(tmpl.body) != size || !json.Valid(tmpl.body) {
			t.Fatalf("%d bytes, want %d of JSON: %s", len(tmpl.body), size, tmpl.body)
		}
		stamps, err := tmpl.sign(1<<40-1, 2)
		if err != nil {
			t.Fatal(err)
		}
		r := tmpl.request("localhost", newEvents)
		for i := range stamps {
			r.set(&stamps[i])
			_, body, _ := bytes.Cut(r.wire, []byte("\r\n\r\n"))
			sig := "X-InstantAPI-Signature: " + signature.Sign(secret, body) + "\r\n"
			if !bytes.Contains(r.wire, []byte(sig)) {
				t.Errorf("no %s in %.400s", sig, r.wire)
			}
			if number, ok := tmpl.number(body); !ok || number != 1<<40-1+uint64(i) {
				t.Errorf("event %d became %d, %t", i, number, ok)
			}
			for _, at := range []int{0, tmpl.numberAt - 1, size - 1} {
				body[at] ^= 1
				if _, ok := tmpl.number(body); ok {
					t.Errorf("a change of byte %d is not noticed", at)
				}
				body[at] ^= 1
			}
		}
		genuine := stamps[1]
		if forge(stamps); stamps[1] == genuine {
			t.Error("the forgery is genuine")
		}
	}
	if _, err := newTemplate(minimumSize - 1); err == nil {
		t.Error("a body can't be that small")
	}
}
