package signature

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	good := strings.Repeat("0123456789abcdef", 4)
	tests := []struct {
		values []string
		want   error
	}{
		{[]string{good}, nil},
		{[]string{strings.ToUpper(good)}, nil},
		{[]string{"sha256=" + good}, nil},
		{[]string{"sha256= " + good}, nil},
		{[]string{"sha256= \t " + good}, nil},
		{nil, ErrMissing},
		{[]string{}, ErrMissing},
		{[]string{good, good}, ErrRepeated},
		{[]string{good, ""}, ErrRepeated},
		{[]string{""}, ErrMalformed},
		{[]string{"sha256="}, ErrMalformed},
		{[]string{"sha256= "}, ErrMalformed},
		{[]string{"sha256 =" + good}, ErrMalformed},
		{[]string{"sha256= " + good[1:]}, ErrMalformed},
		{[]string{"sha256= " + good[:32] + " " + good[32:]}, ErrMalformed},
		{[]string{"sha256=\u00a0" + good}, ErrMalformed},
		{[]string{"sha256=" + good + " "}, ErrMalformed},
		{[]string{" " + good}, ErrMalformed}, // net/http removes the space
		{[]string{"SHA256=" + good}, ErrMalformed},
		{[]string{"sha1=" + good}, ErrMalformed},
		{[]string{"sha256=sha256=" + good}, ErrMalformed},
		{[]string{good[1:]}, ErrMalformed},
		{[]string{good + "0"}, ErrMalformed},
		{[]string{good + "00"}, ErrMalformed},
		{[]string{"g" + good[1:]}, ErrMalformed},
		{[]string{" " + good[1:]}, ErrMalformed},
		{[]string{good[1:] + "\u00e9"}, ErrMalformed},
	}
	for _, test := range tests {
		if _, err := Parse(test.values); !errors.Is(err, test.want) {
			t.Errorf("%q: got %v, want %v", test.values, err, test.want)
		}
	}
}

func TestVerify(t *testing.T) {
	v, err := NewVerifier("a", "b", strings.Repeat("long", 100))
	if err != nil {
		t.Fatal(err)
	}
	body := []byte("body")
	for secret, want := range map[string]int{"a": 0, "b": 1, strings.Repeat("long", 100): 2, "c": -1, "": -1} {
		sig, err := Parse([]string{Sign(secret, body)})
		if err != nil {
			t.Fatal(err)
		}
		// twice, because HMAC states are reused
		for range 2 {
			got, err := v.Verify(body, sig)
			if got != want || (err == nil) != (want >= 0) {
				t.Errorf("secret %.5q: got %d %v, want %d", secret, got, err, want)
			}
		}
		for _, other := range []string{"", "bod", "body ", "Body", "body\x00"} {
			if _, err := v.Verify([]byte(other), sig); !errors.Is(err, ErrMismatch) {
				t.Errorf("%q passes with the signature of %q", other, body)
			}
		}
	}
}

func TestNoSecretNoVerifier(t *testing.T) {
	for _, secrets := range [][]string{nil, {}, {""}, {"a", ""}} {
		if _, err := NewVerifier(secrets...); !errors.Is(err, ErrNoSecret) {
			t.Errorf("%q: got %v, want %v", secrets, err, ErrNoSecret)
		}
	}
}

// Every single-bit change of a signature must be detected.
func TestEveryBitOfTheSignatureCounts(t *testing.T) {
	v, _ := NewVerifier("secret")
	body := []byte("body")
	sig, _ := Parse([]string{Sign("secret", body)})
	for bit := range len(sig) * 8 {
		forged := sig
		forged[bit/8] ^= 1 << (bit % 8)
		if _, err := v.Verify(body, forged); err == nil {
			t.Errorf("bit %d does not count", bit)
		}
	}
}

func FuzzParseSignature(f *testing.F) {
	good := strings.Repeat("0123456789abcdef", 4)
	for _, seed := range []string{"", good, strings.ToUpper(good), "sha256=" + good, "sha256= " + good, "sha256=", good[1:], good + "0", "\x00", "é"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		sig, err := Parse([]string{value})
		if err != nil {
			return
		}
		want, prefixed := strings.CutPrefix(value, "sha256=")
		if prefixed {
			want = strings.TrimLeft(want, " \t")
		}
		if digits := fmt.Sprintf("%x", sig); digits != strings.ToLower(want) {
			t.Errorf("%q was read as %s", value, digits)
		}
	})
}
