package diagnosis

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/instantapi/caddy-instantapi-verify/signature"
)

// sign also signs with an empty key, which the signature package refuses.
func sign(key, body []byte) string {
	mac := hmac.New(sha256.New, key)
	mac.Write(body)
	return hex.EncodeToString(mac.Sum(nil))
}

func TestOtherRulesAreFound(t *testing.T) {
	plain := func(s string) string {
		digest := sha256.Sum256([]byte(s))
		return hex.EncodeToString(digest[:])
	}
	for want, sig := range map[string]string{
		"a SHA-256 of these bytes, without a secret":         plain(sent),
		"a SHA-256 of the secret followed by these bytes":    plain(testSecret + sent),
		"a SHA-256 of these bytes followed by the secret":    plain(sent + testSecret),
		"whose key is the body and whose message is the":     signature.Sign(sent, []byte(testSecret)),
		"an HMAC-SHA256 of the hex digits of the body's SHA": signature.Sign(testSecret, []byte(plain(sent))),
	} {
		got := Of([]byte(sent), sig, []Secret{{"the secret", testSecret}})
		if got.Valid || !strings.Contains(got.Text, want) || !strings.Contains(got.Text, "Make an HMAC-SHA256 of the body") {
			t.Errorf("want %q in: %s", want, got.Text)
		}
		wantNoSecrets(t, got.Text, sent, testSecret, sig)
	}
}
