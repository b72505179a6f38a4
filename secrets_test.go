package instantapi

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
)

// A secret that was copied with something that is not part of it makes all
// signatures bad, so it must not load silently. The warning names its position,
// and never its value.
func TestSecretThatWasCopiedBadlyIsDoubted(t *testing.T) {
	const secret = "whsec_do_not_tell"
	tests := []struct {
		name, value string
		doubts      []string
	}{
		{"as it should be", secret, nil},
		{"with a space within", "do not tell", nil},
		{"base64", "d2hzZWNfZG9fbm90X3RlbGw=", nil},
		{"in another alphabet", "не_говори_do_not_tell", nil},
		{"line break", secret + "\n", []string{"it ends in a line break"}},
		{"Windows line break", secret + "\r\n", []string{"it ends in a carriage return", "it ends in a line break"}},
		{"line break in front", "\n" + secret, []string{"it begins with a line break"}},
		{"spaces", "  " + secret + " ", []string{"it begins with a space", "it ends in a space"}},
		{"tab", secret + "\t", []string{"it ends in a tab"}},
		{"non-breaking space", secret + "\u00a0", []string{"it ends in a non-breaking space"}},
		{"zero-width space", secret + "\u200b", []string{"it ends in an invisible character"}},
		{"byte order mark", "\ufeff" + secret, []string{"it begins with a byte order mark"}},
		{"NUL", secret + "\x00", []string{"it ends in a control character"}},
		{"quotes", `"` + secret + `"`, []string{"it has quotes around it"}},
		{"single quotes", "'" + secret + "'", []string{"it has quotes around it"}},
		{"typographic quotes", "“" + secret + "”", []string{"it has quotes around it"}},
		{"quotes and a line break", `"` + secret + "\"\n", []string{"it ends in a line break", "it has quotes around it"}},
		{"line of an environment file", "SECRET=" + secret, []string{"it begins with NAME=, like a line of an environment file"}},
		{"exported", "export SECRET=" + secret, []string{"it begins with NAME=, like a line of an environment file"}},
		{"two lines", secret + "\n" + secret, []string{"it has a line break within it"}},
		{"soft hyphen", "do\u00adnot_tell", []string{"it has an invisible character within it"}},
		{"blank", " \u200b", []string{"it has no visible character"}},
		{"UTF-16", "\xff\xfed\x00o\x00", []string{"it is not UTF-8 text: was the file saved as UTF-16?"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "secret")
			caddytest.WriteFile(t, file, test.value+"\n") // of which {file.*} takes the line break
			s := caddytest.Run(t, fmt.Sprintf("instantapi_verify a {\nsecret {file.%s}\n}\nrespond ok", file))
			log := s.Logged()
			if strings.Contains(log, "do_not_tell") || strings.Contains(log, "do not tell") {
				t.Error("the log tells the secret")
			}
			var doubts []string
			for line := range strings.Lines(log) {
				var entry struct {
					Level, Logger, Source string
					Secret                int
					Doubts                []string
				}
				if json.Unmarshal([]byte(line), &entry) != nil || entry.Doubts == nil {
					continue
				}
				doubts = entry.Doubts
				if entry.Secret != 2 || entry.Source != "{file."+file+"}" || entry.Level != "warn" || entry.Logger != "http.handlers.instantapi_verify" {
					t.Errorf("got %+v", entry)
				}
			}
			if !slices.Equal(doubts, test.doubts) {
				t.Errorf("got %q, want %q", doubts, test.doubts)
			}
		})
	}
}

// For a secret that is written into the configuration itself, the warning must
// not quote its source.
func TestDoubtfulSecretInTheConfigurationIsNotTold(t *testing.T) {
	t.Setenv("INSTANTAPI_TEST_SECRET", "do_not_tell\n")
	s := caddytest.Run(t, "instantapi_verify ` do_not_tell` {\nsecret {env.INSTANTAPI_TEST_SECRET} do_not_tell{env.INSTANTAPI_TEST_SECRET}\n}\nrespond ok")
	var log strings.Builder
	for line := range strings.Lines(s.Logged()) {
		if strings.Contains(line, `"logger":"http.handlers.instantapi_verify"`) { // Caddy itself logs the configuration
			log.WriteString(line)
		}
	}
	if strings.Contains(log.String(), "do_not_tell") {
		t.Errorf("the log tells the secret: %s", log.String())
	}
	for _, want := range []string{`"secret":1,"source":"the configuration"`, `"secret":2,"source":"{env.INSTANTAPI_TEST_SECRET}"`, `"secret":3,"source":"the configuration"`} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("%s is not in the log", want)
		}
	}
}
