package diagnosis

import (
	"encoding/base64"
	"encoding/hex"
	"strings"
	"testing"
)

func TestChangedSecretsAreFound(t *testing.T) {
	const s = testSecret
	runAll(t, []diagnosisTest{
		{name: "newline", secret: s + "\n", want: []string{"these bytes, made with the secret with a newline at its end", "The signer's secret has white space around it", "printf"}},
		{name: "CR LF", secret: s + "\r\n", want: []string{"with CR LF at its end"}},
		{name: "space", secret: s + " ", want: []string{"with a space at its end"}},
		{name: "byte order mark", secret: "\uFEFF" + s, want: []string{"with a byte order mark in front"}},
		{name: "byte order mark here", with: "\uFEFF" + s, want: []string{"without the byte order mark in front"}},
		{name: "byte order mark and newline here", with: "\uFEFF" + s + "\n", want: []string{"without the white space around it"}},
		{name: "white space here", with: s + " \n", want: []string{"without the white space around it", "given here"}},
		{name: "no-break space here", with: "\u00a0" + s + "\u200b", want: []string{"without the white space around it"}},
		{name: "double quotes", secret: `"` + s + `"`, want: []string{"in double quotes", "--env-file"}},
		{name: "single quotes", secret: "'" + s + "'", want: []string{"in single quotes"}},
		{name: "quotes here", with: `"` + s + `"`, want: []string{"without the quotes around it"}},
		{name: "typographic quotes here", with: "“" + s + "”", want: []string{"without the quotes around it"}},
		{name: "quotes and a newline here", with: `"` + s + "\"\n", want: []string{"without the white space around it without the quotes around it"}},
		{name: "quotes with a newline in them", secret: "\"" + s + "\n\"", want: []string{"with a newline at its end in double quotes"}},
		{name: "a line of an env file here", with: `export WEBHOOK_SECRET="` + s + `"`, want: []string{"without the name in front of it", "env file"}},
		{name: "escaped newline", secret: "a\nb", with: `a\nb`, want: []string{`with its \n and the like read as one character`}},
		{name: "percent signs", secret: "a+/b", with: "a%2B%2Fb", want: []string{"with its percent signs decoded"}},
		{name: "other letters", secret: strings.ToUpper(s), want: []string{"in upper case"}},
		{name: "empty", secret: "\x00", want: []string{"an empty secret", "The signer's secret is not set"}},
		{name: "undefined", secret: "undefined", want: []string{"the word undefined for a secret", "JavaScript"}},
	})
}

func TestEncodedSecretsAreFound(t *testing.T) {
	const key = "0123456789abcdef\xfb\xff0123456789abcd" // 32 bytes, with + and / in its base64
	std := base64.StdEncoding.EncodeToString([]byte(key))
	url := base64.RawURLEncoding.EncodeToString([]byte(key))
	inHex := hex.EncodeToString([]byte(key))
	runAll(t, []diagnosisTest{
		{name: "hex", secret: key, with: inHex, want: []string{"the secret decoded from hex", "The signer decodes the secret"}},
		{name: "hex in upper case", secret: key, with: strings.ToUpper(inHex), want: []string{"the secret decoded from hex"}},
		{name: "base64", secret: key, with: std, want: []string{"the secret decoded from base64"}},
		{name: "base64, unpadded and URL-safe", secret: key, with: url, want: []string{"the secret decoded from base64"}},
		{name: "whsec_, decoded by the signer", secret: key, with: "whsec_" + std, want: []string{"the secret decoded from the base64 behind whsec_", "Standard Webhooks", "The guard uses the secret as it is written"}},
		{name: "whsec_, unpadded", secret: key, with: "whsec_" + strings.TrimRight(std, "="), want: []string{"decoded from the base64 behind whsec_"}},
		{name: "whsec_, left out by the signer", secret: std, with: "whsec_" + std, want: []string{"the secret without whsec_ in front"}},
		{name: "whsec_, left out here", secret: "whsec_" + std, with: std, want: []string{"the secret with whsec_ in front"}},
		{name: "whsec_, decoded here", secret: "whsec_" + base64.StdEncoding.EncodeToString([]byte("plain key")), with: "plain key", want: []string{"the secret encoded in base64 with whsec_ in front"}},
		{name: "base64, decoded here", secret: base64.StdEncoding.EncodeToString([]byte("plain key")), with: "plain key", want: []string{"the secret encoded in base64"}},
		{name: "hex, decoded here", secret: hex.EncodeToString([]byte("plain key")), with: "plain key", want: []string{"the secret encoded in hex"}},
		{name: "whsec_ in quotes", secret: key, with: `"whsec_` + std + `"`, want: []string{"without the quotes around it decoded from the base64 behind whsec_"}},
		{name: "base64 with a newline", secret: key, with: std + "\n", want: []string{"without the white space around it decoded from base64"}},
		{name: "whsec_ and a changed body", secret: key, with: "whsec_" + std, body: sent + "\n", want: []string{"without white space at the end, made with the secret decoded from the base64 behind whsec_"}},
	})
}

// Every suspect of a secret is found, and says why and what to do.
func TestEverySuspectOfASecretIsFound(t *testing.T) {
	samples := []string{"Secret", "\uFEFFSecret", " Secret ", `"Secret"`, "A=Secret", `a\nb`, "a%2Bb", "whsec_U2VjcmV0", "dead", "Zoe\u0308", "Zo\u00eb"}
	for _, s := range secretSuspects {
		found := false
		for _, sample := range samples {
			made := s.change([]byte(sample))
			if len(made) == 0 || string(made) == sample {
				continue
			}
			sig := sign(made, []byte(sent))
			got := Of([]byte(sent), sig, []Secret{{"the secret", sample}})
			found = found || strings.Contains(got.Text, "made with the secret "+s.name) && strings.Contains(got.Text, s.why) && strings.Contains(got.Text, s.remedy)
		}
		if !found {
			t.Errorf("nothing is found %s", s.name)
		}
		if s.why == "" || s.remedy == "" {
			t.Errorf("%s: it lacks a sentence or a remedy", s.name)
		}
	}
}
