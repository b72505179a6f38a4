package cli

import (
	"strings"
	"testing"
)

func TestCommandsRefuseWrongUsage(t *testing.T) {
	secret := []string{"--secret", testSecret}
	for _, test := range []struct {
		name string
		args []string
		want string // in the error
	}{
		{"no such command", []string{"sned"}, "sned"},
		{"no secret", []string{"send"}, "secret"},
		{"two secrets", []string{"send", "--secret", testSecret, "--secret-env", "TEST_SECRET"}, "not several"},
		{"one flag twice", append([]string{"send", "--secret", "a"}, secret...), "not several"},
		{"empty secret", []string{"send", "--secret", ""}, "--secret is empty"},
		{"empty variable", []string{"send", "--secret-env", "EMPTY_SECRET"}, "unset or empty"},
		{"secret for a variable's name", []string{"send", "--secret-env", testSecret}, "unset or empty"},
		{"secret without its flag", []string{"send", testSecret}, "flags"},
		{"secret with one dash", []string{"send", "-secret=" + testSecret}, "two dashes"},
		{"secret after -k", []string{"send", "-k=" + testSecret}, "two dashes"},
		{"unknown flag", append([]string{"send", "--cuont", "2"}, secret...), "--cuont"},
		{"URL without a scheme", append([]string{"send", "--url", "localhost:8080/x"}, secret...), "--url"},
		{"URL of another scheme", append([]string{"send", "--url", "ftp://localhost/x"}, secret...), "--url"},
		{"URL without a host", append([]string{"send", "--url", "http:///x"}, secret...), "--url"},
		{"URL that is none", append([]string{"send", "--url", "http://[::1/"}, secret...), "--url"},
		{"header name", append([]string{"send", "--signature-header", "X Y"}, secret...), "header name"},
		{"count 0", append([]string{"send", "--count", "0"}, secret...), "--count"},
		{"count too large", append([]string{"send", "--count", "1000000000"}, secret...), "--count"},
		{"count not a number", append([]string{"send", "--count", "many"}, secret...), "--count"},
		{"count times repeat", append([]string{"send", "--count", "1000000", "--repeat", "10"}, secret...), "--repeat"},
		{"repeat below 0", append([]string{"send", "--repeat", "-1"}, secret...), "--repeat"},
		{"concurrency 0", append([]string{"send", "--count", "2", "--concurrency", "0"}, secret...), "--concurrency"},
		{"concurrency too large", append([]string{"send", "--count", "2", "--concurrency", "100000"}, secret...), "--concurrency"},
		{"concurrency without count", append([]string{"send", "--concurrency", "2"}, secret...), "need --count"},
		{"rate without count", append([]string{"send", "--rate", "2"}, secret...), "need --count"},
		{"rate 0", append([]string{"send", "--count", "2", "--rate", "0"}, secret...), "--rate"},
		{"rate below 0", append([]string{"send", "--count", "2", "--rate", "-1"}, secret...), "--rate"},
		{"rate NaN", append([]string{"send", "--count", "2", "--rate", "NaN"}, secret...), "--rate"},
		{"timeout 0", append([]string{"send", "--timeout", "0s"}, secret...), "--timeout"},
		{"count and file", append([]string{"send", "--count", "2", "--file", "x"}, secret...), "[count file]"},
		{"count and task id", append([]string{"send", "--count", "2", "--task-id", "x"}, secret...), "[count task-id]"},
		{"file and task id", append([]string{"send", "--file", "x", "--task-id", "x"}, secret...), "[file task-id]"},
		{"file and event type", append([]string{"send", "--file", "x", "--event-type", "x"}, secret...), "[file event-type]"},
		{"empty task id", append([]string{"send", "--task-id", ""}, secret...), "--task-id"},
		{"empty event type", append([]string{"send", "--event-type", ""}, secret...), "--event-type"},
		{"empty file name", append([]string{"send", "--file", ""}, secret...), "--file"},
		{"file that is not there", append([]string{"send", "--file", "none.json"}, secret...), "none.json"},
		{"file that is a directory", append([]string{"send", "--file", "."}, secret...), "--file"},

		{"sign, no secret", []string{"sign"}, "secret"},
		{"sign, two secrets", append([]string{"sign", "--secret", "a"}, secret...), "not several"},
		{"sign, argument", append([]string{"sign", "event.json"}, secret...), "flags"},
		{"sign, file that is not there", append([]string{"sign", "--file", "none.json"}, secret...), "none.json"},
		{"verify, no secret", []string{"verify", "--signature", "00"}, "secret"},
		{"verify, empty secret among others", append([]string{"verify", "--signature", "00", "--secret", ""}, secret...), "--secret is empty"},
		{"verify, no signature", append([]string{"verify"}, secret...), "signature"},
		{"verify, file that is not there", append([]string{"verify", "--signature", "00", "--file", "none.json"}, secret...), "none.json"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := runCommand(t, "", test.args...)
			if got.Status != 1 || !strings.HasPrefix(got.Stderr, "Error: ") || !strings.Contains(got.Stderr, test.want) || got.Stdout != "" {
				t.Errorf("exit status %d, want 1 and an error with %q; it printed %q and to standard error %q", got.Status, test.want, got.Stdout, got.Stderr)
			}
		})
	}
}
