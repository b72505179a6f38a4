package main

import (
	"io"
	"os/exec"
	"testing"
)

// The peer is worth comparing with only if it does the same work.
func TestPeerIsAGuard(t *testing.T) {
	for _, program := range []string{"nginx", "redis-server"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip(err)
		}
	}
	for _, test := range []scenario{
		{sends: newEvents, want: wantForwarded},
		{sends: knownEvents, want: wantDuplicate},
		{sends: forgedEvents, want: wantRefused},
		{sends: unsignedEvents, want: wantRefused},
	} {
		test.name, test.peer = peer.name, true
		o := short(t, group{size: 64 << 10, connections: 8, scenarios: []scenario{scenarios[0], test}})
		b, err := newBench(t.Context(), o, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		defer b.close()
		got, err := b.measureGroup(t.Context(), o.groups[0])
		if err != nil {
			t.Error(err)
			continue
		}
		if measured := got.outcomes[1][0]; measured.requests == 0 || measured.serverCPU() <= 0 {
			t.Errorf("not a measurement: %+v", measured)
		}
	}
}
