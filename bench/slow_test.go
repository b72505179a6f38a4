package main

import (
	"bytes"
	"io"
	"regexp"
	"strings"
	"testing"
)

func TestSlowSendersAreMeasured(t *testing.T) {
	o := short(t)
	o.slowSenders = 3
	var out bytes.Buffer
	if err := runAndReport(t.Context(), o, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"3 senders of bodies of 4.0 MiB", "guard", "768 KiB"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

func TestRefusedSlowSendersFailTheRun(t *testing.T) {
	o := short(t)
	o.slowSenders = 3
	b, err := newBench(t.Context(), o, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	tmpl, err := newTemplate(announced)
	if err != nil {
		t.Fatal(err)
	}
	for routes, says := range map[string]string{
		"intercept {\nhandle_response {\nrespond 503\n}\n}\n{proxy}": "sender 1: answered 503",
		"respond `" + backendAnswer + "` 200":                        "sender 1|the backend got 0", // the answer may be lost with the connection
	} {
		_, err := b.sendSlowly(t.Context(), tmpl, scenario{name: plain, routes: routes, want: wantForwarded})
		if err == nil || !regexp.MustCompile(says).MatchString(err.Error()) {
			t.Errorf("%s: got %v, want an error that says %q", routes, err, says)
		}
	}
}
