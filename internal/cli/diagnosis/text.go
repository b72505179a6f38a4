package diagnosis

import (
	"bytes"
	"slices"

	"golang.org/x/text/unicode/norm"
)

const asTheyArrived = "Verify the bytes exactly as they arrived."

// endings are changes of line breaks and of the end, by shells, editors and copies.
var endings = []suspect{
	{
		"with a newline at the end",
		func(b []byte) []byte { return append(withoutEnd(b), '\n') },
		"A shell, an editor or a copy has removed the newline that was signed.",
		asTheyArrived,
	}, {
		"without white space at the end",
		func(b []byte) []byte { return withoutEnd(b) },
		"A shell, an editor or a copy has added white space that was not signed.",
		asTheyArrived,
	}, {
		"with CR LF at the end",
		func(b []byte) []byte { return append(withoutEnd(b), "\r\n"...) },
		"A shell, an editor or a copy has removed the line break that was signed.",
		asTheyArrived,
	}, {
		"with LF for CR LF",
		inLF,
		"An editor, Git or a transfer in text mode has changed the line breaks.",
		"Move the body as a binary file, and verify the bytes exactly as they arrived.",
	}, {
		"with CR LF for LF",
		func(b []byte) []byte { return bytes.ReplaceAll(inLF(b), []byte("\n"), []byte("\r\n")) },
		"An editor, Git or a transfer in text mode has changed the line breaks.",
		"Move the body as a binary file, and verify the bytes exactly as they arrived.",
	}, {
		"without white space at either end",
		func(b []byte) []byte { return bytes.TrimSpace(b) },
		"The body has white space around it that was not signed.",
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

// forms are the two ways in which Unicode writes a letter with an accent: as one
// character, or as two.
var forms = []suspect{
	{
		"with composed accents (Unicode NFC)",
		func(b []byte) []byte { return throughEscapes(b, norm.NFC.Bytes) },
		"Something has split é into e and an accent, as macOS does in file names.",
		"Remove the step that normalizes the text, or sign what it produces.",
	}, {
		"with decomposed accents (Unicode NFD)",
		func(b []byte) []byte { return throughEscapes(b, norm.NFD.Bytes) },
		"Something has joined e and its accent to é, as Unicode's form NFC has it.",
		"Remove the step that normalizes the text, or sign what it produces.",
	},
}
