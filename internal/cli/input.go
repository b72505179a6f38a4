package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// maxInput is the largest body in bytes that the commands read.
const maxInput = 64 << 20

// maxShown is how many characters are printed of what someone else has written.
const maxShown = 200

// readInput reads the body that a command is about.
func readInput(cmd *cobra.Command, path string) ([]byte, error) {
	in := cmd.InOrStdin()
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("--file: %w", err)
		}
		defer file.Close()
		in = file
	} else if isTerminal(in) {
		fmt.Fprintln(cmd.ErrOrStderr(), "Reading the body from the terminal; --file reads one from a file.")
	}
	body, err := io.ReadAll(io.LimitReader(in, maxInput+1))
	if err != nil {
		return nil, fmt.Errorf("--file: %w", err)
	}
	if len(body) > maxInput {
		return nil, fmt.Errorf("--file: the body is over %d MiB", maxInput>>20)
	}
	return body, nil
}

// isTerminal reports whether a command's input or output is one.
func isTerminal(stream any) bool {
	file, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// printable makes one short line of what someone else has written: no answer may
// move the cursor, and none may fill the screen.
func printable(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
	if short := []rune(s); len(short) > maxShown {
		s = string(short[:maxShown]) + "..."
	}
	return s
}
