package diagnosis

import (
	"bytes"
	"slices"

	"golang.org/x/text/unicode/norm"
)

const asTheyArrived = "Verify the bytes exactly as they arrived."

// endings are what shells, editors and copies do to lines and to the end.
var endings = []suspect{
	{
		"with a newline at the end",
		func(b []byte) []byte { return append(withoutEnd(b), '\n') },
		"A shell, an editor or a copy has taken the newline away that was sent and signed.",
		asTheyArrived,
	}, {
		"without white space at the end",
		func(b []byte) []byte { return withoutEnd(b) },
		"A shell, an editor or a copy has added the white space, which nobody signed.",
		asTheyArrived,
	}, {
		"with CR LF at the end",
		func(b []byte) []byte { return append(withoutEnd(b), "\r\n"...) },
		"A shell, an editor or a copy has taken the end of the line away that was sent and signed.",
		asTheyArrived,
	}, {
		"with LF for CR LF",
		inLF,
		"An editor, Git or a transfer in text mode has changed the ends of the lines.",
		"Move the body as a binary file, and verify the bytes exactly as they arrived.",
	}, {
		"with CR LF for LF",
		func(b []byte) []byte { return bytes.ReplaceAll(inLF(b), []byte("\n"), []byte("\r\n")) },
		"An editor, Git or a transfer in text mode has changed the ends of the lines.",
		"Move the body as a binary file, and verify the bytes exactly as they arrived.",
	}, {
		"without white space at either end",
		func(b []byte) []byte { return bytes.TrimSpace(b) },
		"White space stands around the body, which nobody signed.",
		asTheyArrived,
	}, {
		"without line breaks",
		func(b []byte) []byte {
			return bytes.ReplaceAll(bytes.ReplaceAll(b, []byte("\r"), nil), []byte("\n"), nil)
		},
		"A mail, a terminal or a form has broken the body into lines.",
		asTheyArrived,
	},
}

// withoutEnd returns a slice that may be appended to.
func withoutEnd(b []byte) []byte { return slices.Clip(bytes.TrimRight(b, " \t\r\n")) }

func inLF(b []byte) []byte { return bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")) }

// forms are the two ways in which Unicode writes an accent: as one character with
// its letter, or as a character of its own.
var forms = []suspect{
	{
		"with composed accents (Unicode NFC)",
		func(b []byte) []byte { return throughEscapes(b, norm.NFC.Bytes) },
		"Something has taken é apart into e and an accent, as file names of macOS are written.",
		"Take out the step that normalizes the text, or sign and send what it makes.",
	}, {
		"with decomposed accents (Unicode NFD)",
		func(b []byte) []byte { return throughEscapes(b, norm.NFD.Bytes) },
		"Something has put e and its accent together into é, as Unicode's normal form NFC does.",
		"Take out the step that normalizes the text, or sign and send what it makes.",
	},
}
