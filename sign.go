package instantapi

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"iter"
	"slices"
	"strings"
	"unicode/utf16"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/instantapi/caddy-instantapi-verify/signature"
	"github.com/spf13/cobra"
	"golang.org/x/text/encoding/unicode"
	"golang.org/x/text/transform"
)

// exitInvalid is the exit status of `caddy instantapi verify` for a signature
// that is not right. 1 is what Caddy's commands give for any other error.
const exitInvalid = 2

func newSignCommand() *cobra.Command {
	var (
		secrets credentialFlags
		file    string
	)
	cmd := &cobra.Command{
		Use:   "sign (--secret <secret> | --secret-env <name>) [--file <path>]",
		Short: "Prints the signature of a body",
		Long: `Prints what the sender puts into the signature header for a body: the
HMAC-SHA256 of exactly its bytes, in hex. A newline at the end of the file is one
of them.

Exit status: 0, or 1 where there is no signature to print.`,
		Example: `  caddy instantapi sign --secret-env INSTANTAPI_WEBHOOK_SECRET --file event.json
  printf %s '{"task_id":"1"}' | caddy instantapi sign --secret demo-secret`,
		Args: noArguments,
	}
	secrets.register(cmd, "secret", secretUsage)
	cmd.Flags().StringVar(&file, "file", "-", "`path` of the file with the body; - is standard input")
	cmd.RunE = withStatus(func(cmd *cobra.Command) (int, error) {
		secret, err := secrets.one("")
		if err != nil {
			return 1, err
		}
		body, err := readInput(cmd, file)
		if err != nil {
			return 1, err
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), signature.Sign(secret, body))
		return 0, err
	})
	return cmd
}

func newVerifyCommand() *cobra.Command {
	var (
		secrets   credentialFlags
		file, sig string
	)
	cmd := &cobra.Command{
		Use:   "verify --signature <hex> (--secret <secret> | --secret-env <name>)... [--file <path>]",
		Short: "Checks the signature of a body, and says why it fails",
		Long: `Checks a signature as the guard does. If it is not right, the command looks for
the reason: it tries what often happens to a body on its way (JSON written anew, a
newline lost or added, another encoding) and to a secret (a newline at its end,
quotes around it), and says with which of them the signature would be right. It
never prints the right signature; "caddy instantapi sign" does.

Exit status: 0 if the signature is right with any of the secrets, ` + fmt.Sprint(exitInvalid) + ` if it is not,
1 where it could not be checked.`,
		Example: `  caddy instantapi verify --secret-env INSTANTAPI_WEBHOOK_SECRET --file event.json \
    --signature 05b3...`,
		Args: noArguments,
	}
	secrets.register(cmd, "secret", secretUsage)
	cmd.Flags().StringVar(&file, "file", "-", "`path` of the file with the body, as it was received; - is standard input")
	cmd.Flags().StringVar(&sig, "signature", "", "the signature header's value, in `hex`")
	_ = cmd.MarkFlagRequired("signature") // fails only for a flag that is not there
	cmd.RunE = withStatus(func(cmd *cobra.Command) (int, error) {
		candidates, err := secrets.all()
		if err != nil {
			return 1, err
		}
		body, err := readInput(cmd, file)
		if err != nil {
			return 1, err
		}
		found := diagnose(body, sig, candidates)
		fmt.Fprintln(cmd.OutOrStdout(), found.text)
		if !found.valid {
			return exitInvalid, nil
		}
		return 0, nil
	})
	return cmd
}

// diagnosis is the verdict on a signature.
type diagnosis struct {
	valid bool
	text  string // for people
}

// diagnose checks a signature and, where it is not right, looks for the reason
// by trying. There must be a secret. What it says does not help to make another
// signature: neither a digest nor a secret is in it.
func diagnose(body []byte, given string, secrets []candidate) diagnosis {
	sig, fault := readSignature(given)
	if fault == "" {
		if by, ok := signedBy(body, sig, secrets); ok {
			return diagnosis{true, fmt.Sprintf("valid: made with %s for these %d bytes", by, len(body))}
		}
		return diagnosis{false, fmt.Sprintf("invalid: %v for these %d bytes\n%s", signature.ErrMismatch, len(body), explain(body, sig, secrets))}
	}
	text := fmt.Sprintf("invalid: %v: %s", signature.ErrMalformed, fault)
	if sig == nil {
		return diagnosis{false, text}
	}
	if by, ok := signedBy(body, sig, secrets); ok {
		return diagnosis{false, fmt.Sprintf("%s\nApart from that it is right, made with %s for these bytes.", text, by)}
	}
	return diagnosis{false, text + "\nNor would it be right without that. " + explain(body, sig, secrets)}
}

// readSignature reads a signature as the guard does or, if that can't be done,
// as it may have been meant, and says what is wrong with it. It is nil where
// nothing can be made of it.
func readSignature(s string) (sig *signature.Signature, fault string) {
	if sig, err := signature.Parse([]string{s}); err == nil {
		return &sig, ""
	}
	bare := strings.Trim(s, " \t\r\n\"'")
	_, headerValue, _ := strings.Cut(bare, ":")
	_, afterPrefix, _ := strings.Cut(bare, "=")
	for _, meant := range []struct{ text, fault string }{
		{bare, "there are spaces, newlines or quotes around it"},
		{strings.TrimSpace(headerValue), "this is a whole header line, give its value only"},
		{afterPrefix, "only sha256= may stand in front of the digits"},
	} {
		if sig, err := signature.Parse([]string{meant.text}); err == nil {
			return &sig, meant.fault
		}
	}
	if bare == "" {
		return nil, "it is empty"
	}
	unpadded := strings.TrimRight(bare, "=")
	for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		if digest, err := encoding.DecodeString(unpadded); err == nil && len(digest) == len(signature.Signature{}) {
			return (*signature.Signature)(digest), "it is in base64, write it in hex"
		}
	}
	return nil, whyNotHex(strings.TrimPrefix(bare, "sha256="))
}

func whyNotHex(digits string) string {
	const hexDigits = "0123456789abcdefABCDEF"
	if rest := strings.TrimLeft(digits, hexDigits); rest != "" {
		return fmt.Sprintf("character %d, %q, is not a hex digit", len(digits)-len(rest)+1, []rune(rest)[0])
	}
	return fmt.Sprintf("there are %d digits", len(digits))
}

func signedBy(body []byte, sig *signature.Signature, secrets []candidate) (name string, ok bool) {
	values := make([]string, len(secrets))
	for i, c := range secrets {
		values[i] = c.secret
	}
	verifier, err := signature.NewVerifier(values...)
	if err != nil {
		return "", false
	}
	i, err := verifier.Verify(body, *sig)
	if err != nil {
		return "", false
	}
	return secrets[i].name, true
}

// explain says what the signature would be right for. One change at a time is
// looked for, of the secret or of the body: all pairs of them would take minutes
// for a large body.
func explain(body []byte, sig *signature.Signature, secrets []candidate) string {
	variants := secretVariants(secrets)
	if by, ok := signedBy(body, sig, variants); ok {
		return fmt.Sprintf("It is right for these bytes, made with %s.\nWho signs and who verifies must read the secret in the same way.", by)
	}
	for _, family := range []struct {
		changes func([]byte) iter.Seq2[string, []byte]
		advice  string
	}{
		{textVariants, "Verify the bytes exactly as they arrived: a shell, an editor or a copy has changed them."},
		{jsonVariants, "Something has parsed the JSON and written it anew. Verify the bytes as they arrived, before anything parses them."},
	} {
		for name, variant := range family.changes(body) {
			if by, ok := signedBy(variant, sig, secrets); ok {
				return fmt.Sprintf("It is right for %s, made with %s.\n%s", name, by, family.advice)
			}
		}
	}
	const text = "It is the wrong secret, or the bytes were changed, and in none of the usual ways."
	if len(body) == 0 {
		return text + "\nThe body is empty: was it read before, or lost?"
	}
	if _, err := scanEvent(body, nil); err != nil {
		return text + "\nThe body is not one JSON object: was it cut, or is it something else?"
	}
	return text
}

// secretVariants returns what becomes of secrets that are copied, quoted, read
// from a file or decoded by one side only.
func secretVariants(secrets []candidate) []candidate {
	var variants []candidate
	for _, c := range secrets {
		add := func(how, secret string) {
			if secret != "" {
				variants = append(variants, candidate{c.name + " " + how, secret})
			}
		}
		add("with a newline at its end", c.secret+"\n")
		add("with CR LF at its end", c.secret+"\r\n")
		add("with a space at its end", c.secret+" ")
		add("with a space in front", " "+c.secret)
		add("without the white space around it", strings.TrimSpace(c.secret))
		add("in double quotes", `"`+c.secret+`"`)
		add("in single quotes", "'"+c.secret+"'")
		add("without the quotes around it", strings.Trim(c.secret, `"'`))
		if decoded, err := hex.DecodeString(c.secret); err == nil {
			add("decoded from hex", string(decoded))
		}
		if decoded, err := base64.StdEncoding.DecodeString(c.secret); err == nil {
			add("decoded from base64", string(decoded))
		}
	}
	return variants
}

// textVariants yields what a body may have been before a shell, an editor or a
// copy had it, with a name for people.
func textVariants(body []byte) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		mark := []byte("\uFEFF")
		for _, change := range []struct {
			name  string
			apply func([]byte) []byte
		}{
			{"with a newline at the end", func(b []byte) []byte { return append(withoutEnd(b), "\n"...) }},
			{"without white space at the end", withoutEnd},
			{"with CR LF at the end", func(b []byte) []byte { return append(withoutEnd(b), "\r\n"...) }},
			{"with LF for CR LF", inLF},
			{"with CR LF for LF", func(b []byte) []byte { return bytes.ReplaceAll(inLF(b), []byte("\n"), []byte("\r\n")) }},
			{"in UTF-8 without a byte order mark", inUTF8},
			// PowerShell's ">" adds both.
			{"in UTF-8 without a byte order mark, without white space at the end", func(b []byte) []byte { return withoutEnd(inUTF8(b)) }},
			{"with a byte order mark in front", func(b []byte) []byte { return slices.Concat(mark, b) }},
		} {
			if !yield("these bytes "+change.name, change.apply(body)) {
				return
			}
		}
	}
}

// withoutEnd returns a slice that may be appended to.
func withoutEnd(b []byte) []byte { return slices.Clip(bytes.TrimRight(b, " \t\r\n")) }

func inLF(b []byte) []byte { return bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")) }

// inUTF8 turns UTF-16 into UTF-8, and removes the byte order mark of either.
func inUTF8(b []byte) []byte {
	decoded, _, err := transform.Bytes(unicode.BOMOverride(transform.Nop), b)
	if err != nil {
		return b
	}
	return decoded
}

// formats are how libraries write JSON: white space, order, numbers, and what
// they escape in strings.
var formats = []struct {
	name    string
	options []jsontext.Options
	apply   func([]byte) []byte // to what the options make
}{
	{"without white space", []jsontext.Options{jsontext.PreserveRawStrings(true)}, nil},
	{"as JavaScript writes it", numbers, nil},
	{"as JavaScript writes it, indented by two spaces", slices.Concat(numbers, indented("  ")), nil},
	{"as Python writes it", spaced, inASCII},
	{"as Python writes it, with sorted keys", append(spaced, sorted), inASCII},
	{"as Python writes it, with ensure_ascii=False", spaced, nil},
	{"as Python writes it, without white space", nil, inASCII},
	{"as Python writes it, without white space, with sorted keys", []jsontext.Options{sorted}, inASCII},
	{"as Go writes it", append(numbers, sorted, jsontext.EscapeForHTML(true), jsontext.EscapeForJS(true)), nil},
	{"as PHP writes it", nil, inPHP},
	{"without white space and needless escapes", nil, nil},
	{"without white space and needless escapes, with sorted keys", []jsontext.Options{sorted}, nil},
	{"indented by two spaces", indented("  "), nil},
	{"indented by four spaces", indented("    "), nil},
	{"indented by tabs", indented("\t"), nil},
}

var (
	numbers = slices.Clip([]jsontext.Options{jsontext.CanonicalizeRawInts(true), jsontext.CanonicalizeRawFloats(true)})
	spaced  = slices.Clip([]jsontext.Options{jsontext.SpaceAfterComma(true), jsontext.SpaceAfterColon(true)})
	sorted  = jsontext.ReorderRawObjects(true)
)

func indented(by string) []jsontext.Options {
	return []jsontext.Options{jsontext.Multiline(true), jsontext.SpaceAfterColon(true), jsontext.WithIndent(by)}
}

func inASCII(b []byte) []byte {
	out := make([]byte, 0, len(b))
	var units []uint16
	for _, r := range string(b) {
		if r < 0x7f {
			out = append(out, byte(r))
			continue
		}
		units = utf16.AppendRune(units[:0], r)
		for _, unit := range units {
			out = fmt.Appendf(out, `\u%04x`, unit)
		}
	}
	return out
}

// inPHP may do that because JSON has no / but in strings.
func inPHP(b []byte) []byte { return bytes.ReplaceAll(inASCII(b), []byte("/"), []byte(`\/`)) }

// jsonVariants yields the body as libraries would write its JSON, with a name for
// people; none if it is no JSON.
func jsonVariants(body []byte) iter.Seq2[string, []byte] {
	body = inUTF8(body)
	return func(yield func(string, []byte) bool) {
		for _, format := range formats {
			options := append([]jsontext.Options{jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)}, format.options...)
			written, err := jsontext.AppendFormat(nil, body, options...)
			if err != nil {
				return
			}
			if format.apply != nil {
				written = format.apply(written)
			}
			name := "the same JSON " + format.name
			if !yield(name, written) || !yield(name+", with a newline at the end", append(written, '\n')) {
				return
			}
		}
	}
}
