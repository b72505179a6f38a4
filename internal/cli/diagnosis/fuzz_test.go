package diagnosis

import (
	"strings"
	"testing"

	"github.com/instantapi/caddy-instantapi-verify/signature"
)

// There is a verdict on every input, and it reveals nothing secret.
func FuzzVerdict(f *testing.F) {
	for _, body := range []string{"", sent, python, "\xff\xfe{\x00", `"\u12`, `{"a":"\ud83d\u`, "Ã©\\u00e9", "caf\xe9", `"{\"a\":1}"`, "a=%zz"} {
		f.Add([]byte(body), "t=1,v1=00", "whsec_dGVzdA==")
	}
	f.Fuzz(func(t *testing.T, body []byte, header, secret string) {
		if secret == "" || len(body) > 1000 {
			return
		}
		for _, header := range []string{header, sign([]byte("another"), body)} {
			got := Of(body, header, []Secret{{"the one", secret}})
			right := signature.Sign(secret, body)
			if strings.Contains(got.Text, right) || len(secret) > 12 && strings.Contains(got.Text, secret) {
				t.Errorf("it says too much: %s", got.Text)
			}
		}
	})
}
