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

// maxInput is the size in bytes of the largest body that the commands read.
const maxInput = 64 << 20

// maxShown is how many characters of a text from elsewhere are printed.
const maxShown = 200

// readInput reads a body from a file, or from standard input if path is "-".
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

// isTerminal reports whether a command's input or output is a terminal.
func isTerminal(stream any) bool {
	file, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// printable turns a text from elsewhere into one short line, so that no answer
// moves the cursor or fills the screen.
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
