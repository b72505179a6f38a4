package diagnosis

import (
	"strings"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/signature"
)

const testSecret = "the test's secret"

// diagnosisTest is a body that was signed in one way and arrived in another.
type diagnosisTest struct {
	name           string
	signed, secret string   // what the signature was made of; default: sent, testSecret
	body, with     string   // what is verified; the same defaults
	want           []string // in the verdict
}

// sent is what a body is unless a test says otherwise.
const sent = `{"event_type":"task.completed","task_id":"1","result":{"text":"a/b <é> 😀","parts":[]},"usage":{"cost":0.010,"tokens":[1,2]}}`

func (test diagnosisTest) run(t *testing.T) {
	body := or(test.body, sent)
	with := or(test.with, testSecret)
	secret := or(test.secret, testSecret)
	if secret == "\x00" {
		secret = ""
	}
	sig := sign([]byte(secret), []byte(or(test.signed, sent)))
	got := Of([]byte(body), sig, []Secret{{"the secret", with}})
	if got.Valid {
		t.Error("it is valid")
	}
	for _, want := range append(test.want, "invalid: signature matches no secret") {
		if !strings.Contains(got.Text, want) {
			t.Errorf("want %q in: %s", want, got.Text)
		}
	}
	wantNoSecrets(t, got.Text, body, with, sig)
}

func runAll(t *testing.T, tests []diagnosisTest) {
	t.Helper()
	for _, test := range tests {
		t.Run(test.name, test.run)
	}
}

// wantNoSecrets checks that a verdict would help nobody to sign.
func wantNoSecrets(t *testing.T, text, body, secret, sig string) {
	t.Helper()
	for _, s := range []string{secret, strings.TrimSpace(secret), sig, signature.Sign(secret, []byte(body))} {
		if s != "" && strings.Contains(strings.ToLower(text), strings.ToLower(s)) {
			t.Errorf("it says too much: %s", text)
		}
	}
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func TestAValidSignatureNamesItsSecret(t *testing.T) {
	secrets := []Secret{{"the old secret", "old"}, {"the new secret", testSecret}}
	got := Of([]byte(sent), "sha256="+strings.ToUpper(signature.Sign(testSecret, []byte(sent))), secrets)
	if !got.Valid || !strings.HasPrefix(got.Text, "valid: made with the new secret for these ") {
		t.Errorf("got %+v", got)
	}
}

// Each suspect is found if what it makes of a body is signed, and the body
// itself is given.
func TestEverySuspectIsFound(t *testing.T) {
	const text = `{"b":1.50,"a": "\u00e9<e\u0301>/\u2028&'\" 😀"}`
	samples := []string{
		sent, text, text + " \r\n", "\n" + text, "\uFEFF" + text, "Ã©", "ÃƒÂ©", "caf\xe9", "caf\xe9" + text,
		"{\n}", "{\r\n}", "\xff\xfe{\x00}\x00", "{\x00}\x00", "\x00{\x00}", "e\u0301", "x€ÿ",
		fromHex(t, inGzip), fromHex(t, inZlib), fromHex(t, inDeflate), "eyJhIjoxfQ", "7b7d", `"{}"`, "payload=%7B%7D", "Zoë", "\uFEFF{}\n", "\xe2\x82", `{"a": 1e2}`,
	}
	for _, set := range singleByte { // what they make of a word, once and twice
		once := mangled(set.Charmap)([]byte("Zoë, €šä"))
		samples = append(samples, string(once), string(mangled(set.Charmap)(once)))
	}
	for _, f := range families {
		for _, s := range f.suspects {
			found := false
			for _, sample := range samples {
				made := s.change([]byte(sample))
				if made == nil || string(made) == sample {
					continue
				}
				sig := signature.Sign(testSecret, made)
				got := Of([]byte(sample), sig, []Secret{{"the secret", testSecret}})
				found = found || strings.Contains(got.Text, s.name) && strings.Contains(got.Text, s.why) && strings.Contains(got.Text, s.remedy)
			}
			if !found {
				t.Errorf("nothing is found %s", s.name)
			}
			if s.why == "" || s.remedy == "" {
				t.Errorf("%s: it lacks a sentence or a remedy", s.name)
			}
		}
	}
}

// The search is bounded for bodies of any size and kind.
func TestTheSearchIsBounded(t *testing.T) {
	object := func(size int) string {
		return `{"text":"` + strings.Repeat("é<>/ ", size/7) + `","n":[` + strings.Repeat("1.50,", 100) + `0]}`
	}
	for name, body := range map[string]string{
		"the largest for two changes":         object(maxTwoChanges - 1000),
		"larger":                              object(maxTwoChanges + 1000),
		"the largest for one and one":         object(maxWithSecret - 10000),
		"1 MiB":                               object(1 << 20),
		"packed a thousandfold":               inDeflateOf(t, strings.Repeat("[", 20<<20)),
		"deep":                                strings.Repeat(`{"a":`, 9000) + "1" + strings.Repeat("}", 9000),
		"deeper than JSON may be":             strings.Repeat("[", 20000),
		"1 MiB of brackets":                   strings.Repeat("[]", 1<<19),
		"strings that never end":              strings.Repeat(`"\`, 10000),
		"1 MiB of what is no text in any set": strings.Repeat("\xff\x00\xe9", 1<<20/3),
	} {
		t.Run(name, func(t *testing.T) {
			started := time.Now()
			got := Of([]byte(body), signature.Sign("another", []byte("something")), []Secret{{"the secret", testSecret}})
			if got.Valid || !strings.Contains(got.Text, "secret is wrong, or the bytes were changed") {
				t.Errorf("got %s", got.Text)
			}
			took := time.Since(started)
			t.Logf("%d KiB took %s", len(body)>>10, took.Round(time.Millisecond))
			if took > 2*time.Minute { // some hundred times what it takes on an idle machine
				t.Errorf("it took %s", took)
			}
		})
	}
}
