package main

import (
	"errors"
	"flag"
	"io"
	"slices"
	"strings"
	"testing"
)

func TestOptions(t *testing.T) {
	o, err := parseOptions([]string{"--only", "repeats", "--sizes", "1KiB,2MiB", "--connections", "1,16,64"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if len(o.groups) != 6 || len(o.groups[0].scenarios) != 2 || o.groups[0].scenarios[0].name != plain || o.groups[5].size != 2<<20 {
		t.Errorf("got %+v", o.groups)
	}
	if o, err = parseOptions([]string{"--rounds", "2"}, io.Discard); err != nil || len(o.groups) != len(defaultGroups()) {
		t.Errorf("not the default set: %v, %+v", err, o.groups)
	}
	if o, err = parseOptions([]string{"--peer", "--gomaxprocs", "2"}, io.Discard); err != nil || o.gomaxprocs != 2 {
		t.Errorf("got %v, %+v", err, o)
	}
	for _, g := range o.groups {
		if !slices.ContainsFunc(g.scenarios, func(s scenario) bool { return s.peer }) {
			t.Errorf("no peer in %s", g)
		}
	}
	if slices.ContainsFunc(scenarios, func(s scenario) bool { return s.peer }) {
		t.Error("the peer is measured unasked")
	}
	for args, says := range map[string]string{
		"--only nonsense":  "there is no scenario",
		"--sizes 1":        "is not a size",
		"--sizes 5MiB":     "is not a size",
		"--connections 0":  "is not a number",
		"--rate 0":         "more than 0",
		"--rounds 0":       "above 0",
		"--gomaxprocs -1":  "above 0",
		"--plot plot.docx": "does not end with one of",
		"--bogus":          "not defined",
		"guard":            "unexpected argument",
	} {
		if _, err := parseOptions(strings.Fields(args), io.Discard); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: got %v, want an error that says %q", args, err, says)
		}
	}
	var help strings.Builder
	if _, err := parseOptions([]string{"-h"}, &help); !errors.Is(err, flag.ErrHelp) || !strings.Contains(help.String(), "-slow-senders") {
		t.Errorf("got %v and %s", err, help.String())
	}
}
