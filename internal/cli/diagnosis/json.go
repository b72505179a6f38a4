package diagnosis

import (
	"bytes"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

const (
	beforeParsing = "Something has parsed and rewritten the JSON. Verify the bytes as they arrived, before anything parses them."
)

// writer says how a library writes JSON.
type writer struct {
	layout  []jsontext.Options // white space and order; nil for no white space
	kept    bool               // white space and order stay as they are
	escapes *escapes           // nil: escapes stay as they are
	number  func(dst, literal []byte) []byte
}

// write returns the body as the library would write it, nil if it is not JSON.
func (w writer) write(body []byte) []byte {
	body = inUTF8(body)
	if !isJSON(body) {
		return nil
	}
	if !w.kept {
		if len(w.layout) > 0 && deep(body) {
			return nil // indentation would make it thousands of times larger
		}
		options := append(slices.Clone(anyJSON), jsontext.PreserveRawStrings(true))
		written, err := jsontext.AppendFormat(nil, body, append(options, w.layout...)...)
		if err != nil {
			return nil
		}
		body = written
	}
	if w.escapes != nil || w.number != nil {
		var text func(dst, literal []byte) []byte
		if w.escapes != nil {
			text = w.escapes.appendString
		}
		body = mapTokens(body, text, w.number)
	}
	return body
}

// anyJSON is for JSON as senders write it, with half surrogate pairs where a text
// was cut in the middle of an emoji.
var anyJSON = slices.Clip([]jsontext.Options{jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)})

func isJSON(body []byte) bool { return jsontext.Value(body).IsValid(anyJSON...) }

// maxIndented is the depth down to which JSON is indented.
const maxIndented = 50

func deep(json []byte) bool {
	depth := 0
	inString := false
	for i := 0; i < len(json); i++ {
		switch c := json[i]; {
		case c == '"':
			inString = !inString
		case c == '\\':
			i++
		case inString:
		case c == '{' || c == '[':
			if depth++; depth > maxIndented {
				return true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return false
}

var (
	spaced = slices.Clip([]jsontext.Options{jsontext.SpaceAfterComma(true), jsontext.SpaceAfterColon(true)})
	sorted = jsontext.ReorderRawObjects(true)
)

func indented(by string) []jsontext.Options {
	return []jsontext.Options{jsontext.Multiline(true), jsontext.SpaceAfterColon(true), jsontext.WithIndent(by)}
}

// What libraries escape.
var (
	plainStrings  = escapes{}
	asciiStrings  = escapes{ascii: "\x7f", beyond: true}
	goStrings     = escapes{ascii: "<>&", lines: true, lossy: true}
	gsonStrings   = escapes{ascii: "<>&='", lines: true}
	phpStrings    = escapes{beyond: true, slash: true}
	dotNetStrings = escapes{ascii: "\"&'+<>`\x7f", beyond: true, upper: true, upperWider: true}
)

const (
	whoseHTML   = `Rails, Gson and Go's encoding/json write &, < and > as \u0026, \u003c and \u003e.`
	whoseGson   = `Gson writes &, <, >, = and ' as \u0026, \u003c, \u003e, \u003d and \u0027.`
	whoseASCII  = `Python's json.dumps and PHP's json_encode write é as \u00e9.`
	whosePHP    = `PHP's json_encode writes / as \/ and é as \u00e9.`
	whoseDotNet = `.NET's System.Text.Json writes ", &, ', +, < and > as \u0022, \u0026, \u0027, \u002B, \u003C and \u003E, and é as \u00E9.`
	whoseSpaces = "Python's json.dumps puts a space behind each comma and colon."
	needless    = `Something has escaped characters that need no escape: Rails, Gson, Go and .NET do that with &, < and > (\u0026), Python and PHP with é (\u00e9), PHP with / (\/).`
	addedSpace  = "White space between the parts of the JSON was added after it was signed."
	lostSpace   = "White space between the parts of the JSON was removed after it was signed."
	otherOrder  = "The keys were in another order when the JSON was signed."
)

// escapings are ways to write strings, in a layout that stays as it is.
var escapings = []suspect{
	escaped("without needless escapes", plainStrings, needless),
	escaped("with &, < and > escaped, as Rails, Gson and Go write them", escapes{ascii: "<>&"}, whoseHTML),
	escaped("with U+2028 and U+2029 escaped, as Rails, Gson and Go write them", escapes{lines: true}, `They write U+2028 and U+2029, which end lines in JavaScript, as \u2028 and \u2029.`),
	escaped("with &, <, >, U+2028 and U+2029 escaped, as Rails, Gson and Go write them", goStrings, whoseHTML),
	escaped("with &, <, >, = and ' escaped, as Gson writes them", gsonStrings, whoseGson),
	escaped(`with all that is not ASCII as \uxxxx, as Python and PHP write it`, asciiStrings, whoseASCII),
	escaped(`with all that is not ASCII as \uXXXX, as Jackson writes it`, escapes{ascii: "\x7f", beyond: true, upperWider: true}, `Jackson's ESCAPE_NON_ASCII writes é as \u00E9.`),
	escaped(`with &, <, > and all that is not ASCII as \uxxxx`, escapes{ascii: "<>&", beyond: true}, whoseHTML+" "+whoseASCII),
	escaped(`with / as \/ and all that is not ASCII as \uxxxx, as PHP writes them`, phpStrings, whosePHP),
	escaped(`with / as \/, as PHP writes it with JSON_UNESCAPED_UNICODE`, escapes{slash: true, lines: true}, `PHP's json_encode writes / as \/.`),
	escaped("with the escapes of Laravel's and Symfony's JsonResponse", escapes{ascii: `<>&"'`, upper: true, beyond: true, slash: true},
		`In PHP they write <, >, &, " and ' as \u003C, \u003E, \u0026, \u0022 and \u0027, / as \/, and é as \u00e9.`),
	escaped("with the escapes of .NET's System.Text.Json", dotNetStrings, whoseDotNet),
	escaped("with the escapes of Newtonsoft's Json.NET for HTML", escapes{ascii: `<>&"'`, lines: true},
		`StringEscapeHandling.EscapeHtml writes <, >, &, " and ' as \u003c, \u003e, \u0026, \u0022 and \u0027.`),
}

// layouts are ways to lay out JSON whose strings and numbers stay as they are.
var layouts = []suspect{
	written("without white space", writer{}, addedSpace),
	written("indented by two spaces", writer{layout: indented("  ")}, lostSpace),
	written("indented by four spaces", writer{layout: indented("    ")}, lostSpace),
	written("indented by tabs", writer{layout: indented("\t")}, lostSpace),
	written("with a space behind each comma and colon, as Python writes it", writer{layout: spaced}, whoseSpaces),
	written("with sorted keys", writer{layout: []jsontext.Options{sorted}}, otherOrder),
	written("with sorted keys and a space behind each comma and colon", writer{layout: append(spaced, sorted)}, otherOrder+" "+whoseSpaces),
	written("with sorted keys, indented by two spaces", writer{layout: append(indented("  "), sorted)}, otherOrder),
	written("with sorted keys, indented by four spaces", writer{layout: append(indented("    "), sorted)}, otherOrder),
}

// writers are the usual libraries with their usual options, where that changes
// more than one of escapes, layout and numbers.
var writers = []suspect{
	written("as JavaScript writes it", writer{escapes: &plainStrings, number: javaScriptNumber},
		"JSON.stringify leaves out white space and needless escapes, and writes 0.10 as 0.1."),
	written("as JavaScript writes it, indented by two spaces", writer{layout: indented("  "), escapes: &plainStrings, number: javaScriptNumber},
		"JSON.stringify indents when it is told to, leaves out needless escapes, and writes 0.10 as 0.1."),
	written("as Python writes it", writer{layout: spaced, escapes: &asciiStrings}, whoseSpaces+" "+whoseASCII),
	written("as Python writes it, with sorted keys", writer{layout: append(spaced, sorted), escapes: &asciiStrings}, whoseSpaces+" "+whoseASCII),
	written("as Python writes it, with ensure_ascii=False", writer{layout: spaced, escapes: &plainStrings}, whoseSpaces),
	written("as Python writes it, without white space", writer{escapes: &asciiStrings}, whoseASCII),
	written("as Python writes it, without white space, with sorted keys", writer{layout: []jsontext.Options{sorted}, escapes: &asciiStrings}, whoseASCII),
	written("as Go writes it from a map", writer{layout: []jsontext.Options{sorted}, escapes: &goStrings, number: javaScriptNumber},
		"Go's encoding/json sorts the keys of maps. "+whoseHTML),
	written("as Rails, or Go from a struct, writes it", writer{escapes: &goStrings}, whoseHTML),
	written("as Gson writes it", writer{escapes: &gsonStrings}, whoseGson),
	written("as PHP writes it", writer{escapes: &phpStrings}, whosePHP),
	written("as .NET writes it", writer{escapes: &dotNetStrings}, whoseDotNet),
	written("without white space and needless escapes", writer{escapes: &plainStrings}, needless),
	written("without white space and needless escapes, with sorted keys", writer{layout: []jsontext.Options{sorted}, escapes: &plainStrings}, otherOrder),
	{"as PostgreSQL's jsonb or MySQL's JSON prints it", databaseJSON,
		"Both order the keys by their length, and put a space behind each comma and colon.",
		"Keep the bytes themselves in a column of bytes or text, and verify those."},
}

// numberings are ways to write numbers.
var numberings = []suspect{
	written("with numbers as JavaScript writes them", writer{kept: true, number: javaScriptNumber}, "JavaScript writes 1.0 as 1, and 0.10 as 0.1."),
	written("with numbers as Python and Ruby write them", writer{kept: true, number: pythonNumber}, "Python and Ruby write 1e2 as 100.0, and 0.10 as 0.1."),
}

func written(name string, w writer, why string) suspect {
	return suspect{name, w.write, why, beforeParsing}
}

func escaped(name string, e escapes, why string) suspect {
	return written(name, writer{kept: true, escapes: &e}, why)
}

func javaScriptNumber(dst, literal []byte) []byte {
	written, err := jsontext.AppendFormat(dst, literal, jsontext.CanonicalizeRawInts(true), jsontext.CanonicalizeRawFloats(true))
	if err != nil {
		return append(dst, literal...)
	}
	return written
}

// pythonNumber appends an integer as it is, and any other number as repr does.
func pythonNumber(dst, literal []byte) []byte {
	if !bytes.ContainsAny(literal, ".eE") {
		return append(dst, literal...)
	}
	f, err := strconv.ParseFloat(string(literal), 64)
	if err != nil {
		return append(dst, literal...)
	}
	if size := math.Abs(f); f != 0 && (size < 1e-4 || size >= 1e16) {
		return strconv.AppendFloat(dst, f, 'e', -1, 64)
	}
	text := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(text, ".") {
		text += ".0"
	}
	return append(dst, text...)
}
