package instantapi

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"strings"
	"unicode/utf16"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"
	"golang.org/x/text/encoding/unicode"
	"golang.org/x/text/transform"
)

// exitInvalid is the exit status of `caddy instantapi verify` for a signature
// that is not right. 1 is what Caddy's commands give for any other error.
const exitInvalid = 2

// maxInput is the largest body in bytes that the commands read.
const maxInput = 64 << 20

func newSignCommand() *cobra.Command {
	var (
		secrets secretFlags
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
	secrets.register(cmd)
	cmd.MarkFlagsMutuallyExclusive("secret", "secret-env")
	cmd.Flags().StringVar(&file, "file", "-", "`path` of the file with the body; - is standard input")
	cmd.RunE = withStatus(func(cmd *cobra.Command) (int, error) {
		secret, err := secrets.one()
		if err != nil {
			return 1, err
		}
		body, err := readInput(cmd, file)
		if err != nil {
			return 1, err
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), Sign(secret, body))
		return 0, err
	})
	return cmd
}

func newVerifyCommand() *cobra.Command {
	var (
		secrets         secretFlags
		file, signature string
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
	secrets.register(cmd)
	cmd.Flags().StringVar(&file, "file", "-", "`path` of the file with the body, as it was received; - is standard input")
	cmd.Flags().StringVar(&signature, "signature", "", "the signature header's value, in `hex`")
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
		found := diagnose(body, signature, candidates)
		fmt.Fprintln(cmd.OutOrStdout(), found.text)
		if !found.valid {
			return exitInvalid, nil
		}
		return 0, nil
	})
	return cmd
}

// withStatus makes a command's RunE of a function that returns an exit status,
// of which only those from 2 count: below, the error decides between 0 and 1. An
// error is for the person at the terminal, so it is printed like cobra's about
// flags, not logged like Caddy's.
func withStatus(f func(*cobra.Command) (int, error)) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		status, err := f(cmd)
		if status < 2 {
			return err
		}
		if err != nil {
			cmd.PrintErrln(cmd.ErrPrefix(), err)
		}
		cmd.SilenceErrors = true
		return caddycmd.WrapCommandFuncForCobra(func(caddycmd.Flags) (int, error) { return status, nil })(cmd, args)
	}
}

// noArguments is cobra.NoArgs, except that it does not repeat the argument: it
// may be a secret whose flag was forgotten.
func noArguments(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return errors.New("everything is given with flags here; see --help")
	}
	return nil
}

// flagError does the same for "-secret=...", which pflag takes for one-letter
// flags and repeats.
func flagError(_ *cobra.Command, err error) error {
	if unknown, ok := errors.AsType[*pflag.NotExistError](err); ok && unknown.GetSpecifiedShortnames() != "" {
		return errors.New("flags begin with two dashes; see --help")
	}
	return err
}

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

// secretFlags are the flags that say which secrets to use.
type secretFlags struct {
	values, names []string
}

// candidate is a secret and how to speak of it without saying it.
type candidate struct {
	name, secret string
}

func (s *secretFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&s.values, "secret", nil,
		"the webhook `secret`; other users of the machine can see it in the list of processes, so use --secret-env for a real one")
	cmd.Flags().StringArrayVar(&s.names, "secret-env", nil, "`name` of the environment variable that holds the secret")
	cmd.MarkFlagsOneRequired("secret", "secret-env")
}

// all returns the secrets, none of them empty.
func (s *secretFlags) all() ([]candidate, error) {
	var all []candidate
	for i, value := range s.values {
		if value == "" {
			return nil, errors.New("--secret is empty; is the variable set that it is taken from?")
		}
		name := "the secret"
		if len(s.values)+len(s.names) > 1 {
			name = fmt.Sprintf("--secret number %d", i+1)
		}
		all = append(all, candidate{name, value})
	}
	for _, name := range s.names {
		value := os.Getenv(name)
		if value == "" {
			// Not %q of the name: who forgets what this flag is for gives the secret.
			return nil, errors.New("--secret-env: this environment variable is unset or empty; give the name of one, without a $, and export it")
		}
		all = append(all, candidate{"the secret in " + name, value})
	}
	return all, nil
}

// one returns the secret of a command that needs exactly one.
func (s *secretFlags) one() (string, error) {
	all, err := s.all()
	if err != nil {
		return "", err
	}
	if len(all) != 1 {
		return "", errors.New("give one secret to sign with, not several")
	}
	return all[0].secret, nil
}

// diagnosis is the verdict on a signature.
type diagnosis struct {
	valid bool
	text  string // for people
}

// diagnose checks a signature and, where it is not right, looks for the reason
// by trying. There must be a secret. What it says does not help to make another
// signature: neither a digest nor a secret is in it.
func diagnose(body []byte, signature string, secrets []candidate) diagnosis {
	sig, fault := readSignature(signature)
	if fault == "" {
		if by, ok := signedBy(body, sig, secrets); ok {
			return diagnosis{true, fmt.Sprintf("valid: made with %s for these %d bytes", by, len(body))}
		}
		return diagnosis{false, fmt.Sprintf("invalid: %v for these %d bytes\n%s", ErrSignatureMismatch, len(body), explain(body, sig, secrets))}
	}
	text := fmt.Sprintf("invalid: %v: %s", ErrSignatureMalformed, fault)
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
func readSignature(s string) (sig *Signature, fault string) {
	if sig, err := ParseSignature([]string{s}); err == nil {
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
		if sig, err := ParseSignature([]string{meant.text}); err == nil {
			return &sig, meant.fault
		}
	}
	if bare == "" {
		return nil, "it is empty"
	}
	unpadded := strings.TrimRight(bare, "=")
	for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		if digest, err := encoding.DecodeString(unpadded); err == nil && len(digest) == len(Signature{}) {
			return (*Signature)(digest), "it is in base64, write it in hex"
		}
	}
	return nil, whyNotHex(strings.TrimPrefix(bare, "sha256="))
}

func whyNotHex(digits string) string {
	const hexDigits = "0123456789abcdefABCDEF"
	if rest := strings.TrimLeft(digits, hexDigits); rest != "" {
		return fmt.Sprintf("character %d, %q, is not a hex digit", len(digits)-len(rest)+1, []rune(rest)[0])
	}
	fault := fmt.Sprintf("there are %d digits", len(digits))
	switch len(digits) {
	case 32:
		fault += ", as MD5 makes them; it takes HMAC-SHA256"
	case 40:
		fault += ", as SHA-1 makes them; it takes HMAC-SHA256"
	case 128:
		fault += ", as SHA-512 makes them; it takes HMAC-SHA256"
	}
	return fault
}

func signedBy(body []byte, sig *Signature, secrets []candidate) (name string, ok bool) {
	values := make([]string, len(secrets))
	for i, c := range secrets {
		values[i] = c.secret
	}
	verifier, err := NewVerifier(values...)
	if err != nil {
		return "", false
	}
	i, err := verifier.Verify(body, *sig)
	if err != nil {
		return "", false
	}
	return secrets[i].name, true
}

// explain says what the signature would be right for.
func explain(body []byte, sig *Signature, secrets []candidate) string {
	keys := append(secrets[:len(secrets):len(secrets)], secretVariants(secrets)...)
	tried := 0
	for v := range bodyVariants(body) {
		tried++
		by, ok := signedBy(v.bytes, sig, keys)
		if !ok {
			continue
		}
		text := fmt.Sprintf("It is right for %s, made with %s.", v.name, by)
		if v.advice != "" {
			text += "\n" + v.advice
		} else {
			text += "\nWho signs and who verifies must read the secret in the same way."
		}
		return text
	}
	text := fmt.Sprintf("It is the wrong secret, or the bytes were changed: %d variants of the body and %d of the secret make no difference.",
		tried, len(keys))
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
			if secret != "" && secret != c.secret {
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

// bodyVariant is what a body may have been when it was signed.
type bodyVariant struct {
	name   string
	advice string // "" for the body as it is
	bytes  []byte
}

const (
	adviceBytes = "Verify the bytes exactly as they arrived: a shell, an editor or a copy has changed them."
	adviceJSON  = "Something has parsed the JSON and written it anew. Verify the bytes as they arrived, before anything parses them."
)

// bodyVariants yields the body as it is and then what it may have been, the
// likeliest first. They are made one at a time, for they may be large.
func bodyVariants(body []byte) iter.Seq[bodyVariant] {
	return func(yield func(bodyVariant) bool) {
		for v := range textVariants(body) {
			if !yield(v) {
				return
			}
		}
		for v := range jsonVariants(body) {
			if !yield(v) {
				return
			}
		}
	}
}

// change is what may happen to a body and how to speak of it; "" is none.
type change struct {
	how   string
	apply func([]byte) []byte
}

func unchanged(b []byte) []byte { return b }

var utf8Mark = []byte("\uFEFF")

var (
	encodings = []change{
		{"", unchanged},
		{"in UTF-8 without a byte order mark", inUTF8},
		{"with a byte order mark in front", func(b []byte) []byte { return append(bytes.Clone(utf8Mark), b...) }},
	}
	newlines = []change{
		{"", unchanged},
		{"with LF for CR LF", inLF},
		{"with CR LF for LF", func(b []byte) []byte { return bytes.ReplaceAll(inLF(b), []byte("\n"), []byte("\r\n")) }},
	}
	ends = []change{
		{"", unchanged},
		{"with a newline at the end", func(b []byte) []byte { return append(withoutEnd(b), "\n"...) }},
		{"without white space at the end", withoutEnd},
		{"with CR LF at the end", func(b []byte) []byte { return append(withoutEnd(b), "\r\n"...) }},
	}
)

func inLF(b []byte) []byte { return bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")) }

// withoutEnd returns a slice that may be appended to.
func withoutEnd(b []byte) []byte {
	b = bytes.TrimRight(b, " \t\r\n")
	return b[:len(b):len(b)]
}

// inUTF8 turns UTF-16 into UTF-8, as PowerShell's ">" makes it necessary, and
// removes the byte order mark of either.
func inUTF8(b []byte) []byte {
	decoded, _, err := transform.Bytes(unicode.BOMOverride(transform.Nop), b)
	if err != nil {
		return b
	}
	return decoded
}

func textVariants(body []byte) iter.Seq[bodyVariant] {
	return func(yield func(bodyVariant) bool) {
		for _, encoding := range encodings {
			for _, newline := range newlines {
				for _, end := range ends {
					v := bodyVariant{name: "these bytes", bytes: end.apply(newline.apply(encoding.apply(body)))}
					if how := join(encoding.how, newline.how, end.how); how != "" {
						v.name, v.advice = v.name+" "+how, adviceBytes
					}
					if !yield(v) {
						return
					}
				}
			}
		}
	}
}

// How libraries write JSON anew: white space, order, numbers, and what they
// escape in strings.
var (
	layouts = []format{
		{"without white space", nil},
		{"with a space after each comma and colon, as Python does", []jsontext.Options{jsontext.SpaceAfterComma(true), jsontext.SpaceAfterColon(true)}},
		{"indented by two spaces", indented("  ")},
		{"indented by four spaces", indented("    ")},
		{"indented by tabs", indented("\t")},
	}
	orders = []format{
		{"", nil},
		{"with sorted keys", []jsontext.Options{jsontext.ReorderRawObjects(true)}},
	}
	numbers = []format{
		{"", nil},
		{"with numbers as JavaScript writes them", []jsontext.Options{jsontext.CanonicalizeRawInts(true), jsontext.CanonicalizeRawFloats(true)}},
	}
	texts = []struct {
		format
		apply func([]byte) []byte
	}{
		{format{"", []jsontext.Options{jsontext.PreserveRawStrings(true)}}, unchanged},
		{format{"with as few escapes as can be", nil}, unchanged},
		{format{`with non-ASCII characters as \uXXXX`, nil}, inASCII},
		{format{`with <, > and & as \uXXXX, as Go does`, []jsontext.Options{jsontext.EscapeForHTML(true), jsontext.EscapeForJS(true)}}, unchanged},
		{format{`with non-ASCII characters as \uXXXX and / as \/, as PHP does`, nil}, inPHP},
	}
)

type format struct {
	how     string
	options []jsontext.Options
}

func indented(by string) []jsontext.Options {
	return []jsontext.Options{jsontext.Multiline(true), jsontext.SpaceAfterColon(true), jsontext.WithIndent(by)}
}

func inASCII(b []byte) []byte {
	out := make([]byte, 0, len(b))
	for _, r := range string(b) {
		switch {
		case r < 0x7f:
			out = append(out, byte(r))
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
	}
	return out
}

// inPHP may do that because JSON has no / but in strings.
func inPHP(b []byte) []byte { return bytes.ReplaceAll(inASCII(b), []byte("/"), []byte(`\/`)) }

func jsonVariants(body []byte) iter.Seq[bodyVariant] {
	body = inUTF8(body)
	return func(yield func(bodyVariant) bool) {
		for _, text := range texts {
			for _, number := range numbers {
				for _, order := range orders {
					for _, layout := range layouts {
						written, ok := rewrite(body, text.options, number.options, order.options, layout.options)
						if !ok {
							return
						}
						written = text.apply(written)
						for _, end := range ends[:2] {
							how := join(layout.how, order.how, number.how, text.how, end.how)
							if !yield(bodyVariant{"the same JSON " + how, adviceJSON, end.apply(written)}) {
								return
							}
						}
					}
				}
			}
		}
	}
}

// rewrite writes JSON anew; ok is false if it is none.
func rewrite(body []byte, options ...[]jsontext.Options) (written []byte, ok bool) {
	all := []jsontext.Options{jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)}
	for _, some := range options {
		all = append(all, some...)
	}
	written, err := jsontext.AppendFormat(nil, body, all...)
	return written, err == nil
}

func join(parts ...string) string {
	var said []string
	for _, part := range parts {
		if part != "" {
			said = append(said, part)
		}
	}
	return strings.Join(said, ", ")
}
