package diagnosis

import (
	"bytes"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/charmap"
	"golang.org/x/text/encoding/unicode"
	"golang.org/x/text/transform"
)

const (
	asBytes    = "Read the body as bytes, and where text must be made of it, decode UTF-8."
	signsUTF8  = "Sign the UTF-8 bytes that are sent, not a text that is encoded again."
	fileInUTF8 = "Save the file as UTF-8 without a byte order mark, or verify the bytes as they arrived."
)

// marks are the byte order marks that editors and PowerShell write.
var marks = []suspect{
	{
		"in UTF-8 without a byte order mark",
		inUTF8,
		"An editor or PowerShell has put a byte order mark in front, or written UTF-16.",
		fileInUTF8,
	}, {
		// PowerShell's ">" adds both.
		"in UTF-8 without a byte order mark, without white space at the end",
		func(b []byte) []byte { return withoutEnd(inUTF8(b)) },
		"PowerShell's > has written UTF-16 with a byte order mark and a line break.",
		fileInUTF8,
	}, {
		"with a byte order mark in front",
		func(b []byte) []byte { return slices.Concat([]byte(mark), b) },
		"A byte order mark was sent and signed, and lost on the way.",
		asTheyArrived,
	},
}

// mark is the byte order mark in UTF-8.
const mark = "\uFEFF"

// inUTF8 turns UTF-16 into UTF-8, and removes the byte order mark of either.
func inUTF8(b []byte) []byte {
	decoded, _, err := transform.Bytes(unicode.BOMOverride(transform.Nop), b)
	if err != nil {
		return b
	}
	return decoded
}

// singleByte are the character sets that UTF-8 is often mistaken for.
var singleByte = []struct {
	name string
	*charmap.Charmap
}{
	{"Latin-1", charmap.ISO8859_1},
	{"Windows-1252", charmap.Windows1252},
	{"Latin-9", charmap.ISO8859_15},
	{"code page 437", charmap.CodePage437},
	{"code page 850", charmap.CodePage850},
	{"Mac OS Roman", charmap.Macintosh},
}

// charsets are mistakes about the character set. A body of ASCII rules most of
// them out.
var charsets = slices.Concat(mistaken(), lossy, wide)

// mistaken returns the suspects of each single-byte character set.
func mistaken() []suspect {
	var all []suspect
	for _, set := range singleByte {
		all = append(all, suspect{
			"before their UTF-8 was read as " + set.name + " and encoded again",
			func(b []byte) []byte { return throughEscapes(b, undone(set.Charmap)) },
			"The text was mangled on the way: what was é is two or three other characters now.",
			asBytes,
		}, suspect{
			"before their UTF-8 was twice read as " + set.name + " and encoded again",
			func(b []byte) []byte {
				undo := undone(set.Charmap)
				return throughEscapes(b, func(b []byte) []byte { return undo(undo(b)) })
			},
			"The text was mangled twice on the way: what was é is four or more other characters now.",
			asBytes,
		}, suspect{
			"with their UTF-8 read as " + set.name + " and encoded again",
			func(b []byte) []byte { return throughEscapes(b, mangled(set.Charmap)) },
			"The signer has read the UTF-8 bytes as " + set.name + ".",
			signsUTF8,
		}, suspect{
			"in UTF-8, converted from " + set.name,
			func(b []byte) []byte {
				if utf8.Valid(b) {
					return nil
				}
				return decoded(set.Charmap, b)
			},
			"The body is not UTF-8: something has converted it to " + set.name + " after it was signed.",
			"Remove that conversion, or verify the bytes before it.",
		}, suspect{
			"in " + set.name,
			func(b []byte) []byte {
				if out := narrow(set.Charmap, b, ""); !utf8.Valid(out) {
					return out
				}
				return nil // as the first suspect of this set has it
			},
			"The signer has encoded the text as " + set.name + ", but the body is UTF-8.",
			signsUTF8,
		}, suspect{
			"in " + set.name + ", with a ? for each character that it lacks",
			func(b []byte) []byte { return narrow(set.Charmap, b, "?") },
			"The signer has encoded the text as " + set.name + ", which loses characters, but the body is UTF-8.",
			signsUTF8,
		})
	}
	return all
}

// undone returns a function that undoes mangled, and returns nil if that is
// impossible.
func undone(set *charmap.Charmap) func([]byte) []byte {
	return func(b []byte) []byte {
		if out := narrow(set, b, ""); out != nil && utf8.Valid(out) {
			return out
		}
		return nil
	}
}

// mangled returns a function that reads UTF-8 as another character set, and
// encodes the result as UTF-8.
func mangled(set *charmap.Charmap) func([]byte) []byte {
	return func(b []byte) []byte {
		if !utf8.Valid(b) {
			return nil
		}
		return decoded(set, b)
	}
}

// decoded returns b in UTF-8, nil if b is all ASCII.
func decoded(set *charmap.Charmap, b []byte) []byte {
	if isASCII(b) {
		return nil
	}
	out := make([]byte, 0, 2*len(b))
	for _, c := range b {
		r := set.DecodeByte(c)
		if r == utf8.RuneError {
			r = rune(c) // a control character, as most decoders take what a set leaves open
		}
		out = utf8.AppendRune(out, r)
	}
	return out
}

// narrow returns UTF-8 in a character set of single bytes. A character that the
// set lacks becomes instead; if that is empty, the result is nil.
func narrow(set *charmap.Charmap, b []byte, instead string) []byte {
	if isASCII(b) || !utf8.Valid(b) {
		return nil
	}
	out := make([]byte, 0, len(b))
	for _, r := range string(b) {
		c, ok := set.EncodeRune(r)
		switch {
		case ok:
			out = append(out, c)
		case r <= 0xFF && set.DecodeByte(byte(r)) == utf8.RuneError:
			out = append(out, byte(r)) // see decoded
		case instead == "":
			return nil
		default:
			out = append(out, instead...)
		}
	}
	return out
}

func isASCII(b []byte) bool {
	return bytes.IndexFunc(b, func(r rune) bool { return r >= utf8.RuneSelf }) < 0
}

// lossy are conversions of the signer's that lose characters. Those that the body
// has lost on its way can't be found, because the signed body can't be restored.
var lossy = []suspect{
	replacing("in ASCII, with a ? for each other character", beyondASCII, perCharacter("?")),
	replacing("in ASCII, with ?? for each emoji and a ? for each other character", beyondASCII, perUnit("?")),
	replacing("in ASCII, with a ? for each byte of another character", beyondASCII, perByte("?")),
	replacing("in ASCII, with U+FFFD for each byte of another character", beyondASCII, perByte("\uFFFD")),
	replacing("with a ? for each emoji", beyondPlane, perCharacter("?")),
	replacing("with ?? for each emoji", beyondPlane, perUnit("?")),
	replacing("with ???? for each emoji", beyondPlane, perByte("?")),
	replacing("with U+FFFD for each emoji", beyondPlane, perCharacter("\uFFFD")),
	replacing("with U+FFFD twice for each emoji", beyondPlane, perUnit("\uFFFD")),
	replacing("with each emoji as two surrogates of three bytes (CESU-8)", beyondPlane, surrogates),
	{
		"with U+FFFD for each byte that is not UTF-8",
		func(b []byte) []byte { return []byte(string([]rune(string(b)))) },
		"Part of the body is not UTF-8: the signer has decoded the body and lost those bytes.",
		"Sign the bytes that are sent, and send UTF-8.",
	}, {
		"with U+FFFD for each sequence that is not UTF-8",
		func(b []byte) []byte {
			out, _, err := transform.Bytes(unicode.UTF8.NewDecoder(), b)
			if err != nil {
				return nil
			}
			return out
		},
		"Part of the body is not UTF-8: the signer has decoded the body and lost those bytes.",
		"Sign the bytes that are sent, and send UTF-8.",
	},
}

// replacing is the suspect of a conversion that writes something else for some
// characters.
func replacing(name string, which func(rune) bool, with func(rune) string) suspect {
	return suspect{
		name,
		func(b []byte) []byte {
			if !utf8.Valid(b) || bytes.IndexFunc(b, which) < 0 {
				return nil
			}
			var out strings.Builder
			for _, r := range string(b) {
				if which(r) {
					out.WriteString(with(r))
				} else {
					out.WriteRune(r)
				}
			}
			return []byte(out.String())
		},
		"The signer's copy of the text has lost characters that the body still has.",
		signsUTF8,
	}
}

func beyondASCII(r rune) bool { return r >= utf8.RuneSelf }

// beyondPlane reports whether a character takes two units of UTF-16, and four
// bytes of UTF-8, as emoji do.
func beyondPlane(r rune) bool { return r > 0xFFFF }

func perCharacter(s string) func(rune) string { return func(rune) string { return s } }

func perUnit(s string) func(rune) string {
	return func(r rune) string { return strings.Repeat(s, utf16.RuneLen(r)) }
}

func perByte(s string) func(rune) string {
	return func(r rune) string { return strings.Repeat(s, utf8.RuneLen(r)) }
}

// surrogates returns a character as Oracle, MySQL's utf8mb3 and Java's modified
// UTF-8 write it.
func surrogates(r rune) string {
	high, low := utf16.EncodeRune(r)
	var out []byte
	for _, unit := range []rune{high, low} {
		out = append(out, byte(0xE0|unit>>12), byte(0x80|unit>>6&0x3F), byte(0x80|unit&0x3F))
	}
	return string(out)
}

// wide are UTF-16 without, or with, a byte order mark.
var wide = []suspect{
	fromUTF16("little-endian", unicode.LittleEndian),
	fromUTF16("big-endian", unicode.BigEndian),
	toUTF16("little-endian", unicode.LittleEndian, unicode.IgnoreBOM),
	toUTF16("little-endian with a byte order mark", unicode.LittleEndian, unicode.UseBOM),
	toUTF16("big-endian", unicode.BigEndian, unicode.IgnoreBOM),
	toUTF16("big-endian with a byte order mark", unicode.BigEndian, unicode.UseBOM),
}

func fromUTF16(name string, order unicode.Endianness) suspect {
	return suspect{
		"in UTF-8, converted from UTF-16, " + name,
		func(b []byte) []byte {
			if bytes.IndexByte(b, 0) < 0 {
				return nil
			}
			return converted(unicode.UTF16(order, unicode.IgnoreBOM).NewDecoder().Transformer, b)
		},
		"The body is UTF-16: Windows or a database has converted it after it was signed.",
		fileInUTF8,
	}
}

func toUTF16(name string, order unicode.Endianness, mark unicode.BOMPolicy) suspect {
	return suspect{
		"in UTF-16, " + name,
		func(b []byte) []byte {
			if !utf8.Valid(b) {
				return nil
			}
			return converted(encoding.Encoder{Transformer: unicode.UTF16(order, mark).NewEncoder()}, b)
		},
		"The signer has encoded the text as UTF-16, as .NET's Encoding.Unicode does, but the body is UTF-8.",
		signsUTF8,
	}
}

func converted(by transform.Transformer, b []byte) []byte {
	out, _, err := transform.Bytes(by, b)
	if err != nil {
		return nil
	}
	return out
}
