package instantapi

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
)

// resolveSecrets replaces the placeholders in secrets. Its errors name a secret
// by its position and by [secretSource].
func resolveSecrets(secrets []string, log *zap.Logger) ([]string, error) {
	repl := caddy.NewReplacer()
	var resolved []string
	for i, secret := range secrets {
		value, err := repl.ReplaceOrErr(secret, true, true)
		if err != nil {
			return nil, fmt.Errorf("secret %d: %s is unset, empty, unreadable or unknown (a literal brace in a secret is written \\{)",
				i+1, secretSource(secret, "a placeholder in it"))
		}
		if doubts := doubtsAbout(value); len(doubts) > 0 {
			log.Warn("secret seems to have been copied with something that is not part of it; it is used unchanged, so check it if all signatures are refused",
				zap.Int("secret", i+1), zap.String("source", secretSource(secret, "the configuration")), zap.Strings("doubts", doubts))
		}
		resolved = append(resolved, value)
	}
	return resolved, nil
}

// secretSource returns the secret's text if that is one placeholder, and
// otherwise a name for where it comes from: in "{env.A}x" or "{x}" the rest may
// be the secret itself.
func secretSource(secret, otherwise string) string {
	inner := strings.TrimSuffix(strings.TrimPrefix(secret, "{"), "}")
	source, _, _ := strings.Cut(inner, ".")
	if (source == "env" || source == "file") && secret == "{"+inner+"}" && !strings.ContainsAny(inner, "{}") {
		return secret
	}
	return otherwise
}

// byteOrderMark is what some editors write in front of a file's text.
const byteOrderMark = '\ufeff'

// environmentLine matches the beginning of a line of an environment file.
var environmentLine = regexp.MustCompile(`^(export\s+)?[A-Z][A-Z0-9_]*=.`)

// doubtsAbout says what is unusual about a secret, without revealing it. It
// never sees one line break at the end of a file, because {file.*} removes
// that.
func doubtsAbout(secret string) (doubts []string) {
	if !utf8.ValidString(secret) {
		// The other checks are about characters, which this does not have.
		return []string{"it is not UTF-8 text: was the file saved as UTF-16?"}
	}
	core := strings.TrimFunc(secret, isBlank)
	if core == "" {
		return []string{"it has no visible character"}
	}
	begin, end, _ := strings.Cut(secret, core)
	for _, edge := range []struct{ verb, blanks string }{{"begins with", begin}, {"ends in", end}} {
		for _, name := range namesOf(edge.blanks) {
			doubts = append(doubts, "it "+edge.verb+" "+name)
		}
	}
	if isQuoted(core) {
		doubts = append(doubts, "it has quotes around it")
	}
	if environmentLine.MatchString(core) {
		doubts = append(doubts, "it begins with NAME=, like a line of an environment file")
	}
	for _, name := range namesOf(strings.Map(onlyInvisible, core)) {
		doubts = append(doubts, "it has "+name+" within it")
	}
	return doubts
}

// isBlank reports whether a character is invisible.
func isBlank(r rune) bool { return unicode.IsSpace(r) || !unicode.IsGraphic(r) }

// onlyInvisible drops what may well be part of a secret, ordinary spaces
// included.
func onlyInvisible(r rune) rune {
	if r == ' ' || !isBlank(r) {
		return -1
	}
	return r
}

// namesOf names the different invisible characters of a text.
func namesOf(blanks string) (names []string) {
	seen := make(map[string]bool)
	for _, r := range blanks {
		name := "an invisible character"
		switch r {
		case ' ':
			name = "a space"
		case '\t':
			name = "a tab"
		case '\n':
			name = "a line break"
		case '\r':
			name = "a carriage return"
		case '\u00a0':
			name = "a non-breaking space"
		case byteOrderMark:
			name = "a byte order mark"
		default:
			if unicode.IsControl(r) {
				name = "a control character"
			}
		}
		if !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	return names
}

// quotes are pairs of opening and closing quotes.
var quotes = []string{`""`, "''", "``", "“”", "‘’", "„“", "«»"}

func isQuoted(s string) bool {
	for _, pair := range quotes {
		opening, size := utf8.DecodeRuneInString(pair)
		if len(s) >= len(pair) && strings.HasPrefix(s, string(opening)) && strings.HasSuffix(s, pair[size:]) {
			return true
		}
	}
	return false
}
