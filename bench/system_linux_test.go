package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// The server has the first core, everything else the others, and Caddy as many
// processors of Go's as the run says.
func TestPinnedServerHasOneCore(t *testing.T) {
	if runtime.NumCPU() < 2 {
		t.Skip("there is one core")
	}
	o := short(t)
	o.pin, o.gomaxprocs = true, 3
	b, err := newBench(t.Context(), o, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	defer func() {
		if err := pinSelf(slices.Concat(b.serverCores, b.otherCores)); err != nil {
			t.Error(err)
		}
	}()
	srv, err := b.startServer(scenarios[0])
	if err != nil {
		t.Fatal(err)
	}
	defer srv.stop()
	others := fmt.Sprintf("1-%d", runtime.NumCPU()-1)
	if runtime.NumCPU() == 2 {
		others = "1"
	}
	for pid, want := range map[int]string{
		srv.processes[0].cmd.Process.Pid: "0",
		b.backend.cmd.Process.Pid:        others,
		os.Getpid():                      others,
	} {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(status), "Cpus_allowed_list:\t"+want+"\n") {
			t.Errorf("process %d is not on cores %s:\n%s", pid, want, status)
		}
	}
	res, err := http.Get("http://" + srv.admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	metrics, err := io.ReadAll(res.Body)
	if err != nil || !bytes.Contains(metrics, []byte("go_sched_gomaxprocs_threads 3")) {
		t.Errorf("not 3 processors: %v\n%s", err, metrics)
	}
}
