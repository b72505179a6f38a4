package cli

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
	"golang.org/x/sys/unix"
)

func TestSendShowsProgressOnATerminal(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	ours, theirs := pseudoTerminal(t)
	cmd := instantapiCommand(t, "send", "--url", b.URL, "--secret", testSecret, "--count", "50")
	var stdout bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, theirs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	shown, _ := io.ReadAll(ours) // it ends with EIO, when the last user of the terminal has gone
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(shown), "sending") || !strings.Contains(string(shown), "/50") {
		t.Errorf("the terminal showed %q", shown)
	}
	if !strings.Contains(stdout.String(), "forwarded         50") || strings.Contains(stdout.String(), "sending") {
		t.Errorf("it printed %q", stdout.String())
	}
}

// pseudoTerminal returns the two ends of a terminal.
func pseudoTerminal(t *testing.T) (ours, theirs *os.File) {
	t.Helper()
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		caddytest.Missing(t, "%v", err)
	}
	t.Cleanup(func() { ours.Close() })
	number, err := unix.IoctlGetInt(int(ours.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(ours.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	theirs, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		caddytest.Missing(t, "%v", err)
	}
	return ours, theirs
}
