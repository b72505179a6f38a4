package diagnosis

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/instantapi/caddy-instantapi-verify/signature"
)

func TestMalformedSignaturesAreRead(t *testing.T) {
	good := signature.Sign(testSecret, []byte(sent))
	digest, err := hex.DecodeString(good)
	if err != nil {
		t.Fatal(err)
	}
	std := base64.StdEncoding.EncodeToString(digest)
	dashes := strings.ToUpper(strings.TrimSuffix(fmt.Sprintf("% x", digest), " "))
	for _, test := range []struct {
		name, sig string
		want      string
		apart     bool // from that, it is right
	}{
		{"empty", "", "it is empty", false},
		{"white space", "\n", "it is empty", false},
		{"short", good[1:], "there are 63 digits", false},
		{"long", good + "0", "there are 65 digits", false},
		{"short with prefix", "sha256=" + good[1:], "there are 63 digits", false},
		{"a wrong character", good[:9] + "x" + good[10:], `character 10, 'x', is not a hex digit`, false},
		{"not ASCII", good[:62] + "é", `character 63, 'é', is not a hex digit`, false},
		{"SHA-1", good[:40], "there are 40 digits, as SHA-1 has them", false},
		{"SHA-512", good + good, "there are 128 digits, as SHA-512 has them; sign with HMAC-SHA256", false},
		{"newline", good + "\n", "spaces, newlines or quotes around it", true},
		{"quotes", `"` + good + `"`, "spaces, newlines or quotes around it", true},
		{"header line", "X-InstantAPI-Signature: " + good + "\r", "whole header line", true},
		{"another prefix", "SHA256=" + good, "only sha256= may be in front", true},
		{"version", "v1=" + good, "only sha256= may be in front", true},
		{"0x", "0x" + good, "0x must not be in front", true},
		{"bytea", `\x` + good, "0x must not be in front", true},
		{"BitConverter", strings.ReplaceAll(dashes, " ", "-"), "dashes, colons or spaces between the digits", true},
		{"colons", strings.ReplaceAll(dashes, " ", ":"), "dashes, colons or spaces between the digits", true},
		{"base64", std, "it is in base64; write it in hex", true},
		{"base64, unpadded", strings.TrimRight(std, "="), "it is in base64; write it in hex", true},
		{"base64 for URLs", base64.URLEncoding.EncodeToString(digest), "it is in base64; write it in hex", true},
		{"base64 for URLs, unpadded", base64.RawURLEncoding.EncodeToString(digest), "it is in base64; write it in hex", true},
		{"base64 with percent signs", url.QueryEscape(std), "percent signs", true},
		{"base64 with a prefix", "sha256=" + std, "base64 behind something else", true},
		{"Standard Webhooks", "v1," + std, "base64 behind something else", true},
		{"base64 of the hex", base64.StdEncoding.EncodeToString([]byte(good)), "the base64 of the hex digits", true},
		{"hex of the hex", hex.EncodeToString([]byte(good)), "the hex of the hex digits", true},
		{"with a time", "t=1795559508,v1=" + good, "it contains more than the digits", true},
		{"two", good + ", " + good, "it contains more than the digits", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := Of([]byte(sent), test.sig, []Secret{{"the secret", testSecret}})
			if got.Valid || !strings.HasPrefix(got.Text, "invalid: signature is not 64 hex digits: ") || !strings.Contains(got.Text, test.want) {
				t.Errorf("want %q in: %s", test.want, got.Text)
			}
			if apart := strings.Contains(got.Text, "Apart from that it is right"); apart != test.apart {
				t.Errorf("it should say that it is right apart from that (%t): %s", test.apart, got.Text)
			}
			wantNoSecrets(t, got.Text, sent, testSecret, good)
		})
	}
}

func TestMalformedSignaturesOfChangedBodiesAreExplained(t *testing.T) {
	digest, err := hex.DecodeString(signature.Sign(testSecret, []byte(sent)))
	if err != nil {
		t.Fatal(err)
	}
	got := Of([]byte(sent+"\n"), base64.RawURLEncoding.EncodeToString(digest), []Secret{{"the secret", testSecret}})
	for _, want := range []string{"base64", "Even without that it would be wrong", "without white space at the end"} {
		if got.Valid || !strings.Contains(got.Text, want) {
			t.Errorf("want %q in: %s", want, got.Text)
		}
	}
}
