package signature_test

import (
	"fmt"

	"github.com/instantapi/caddy-instantapi-verify/signature"
)

// While a secret is being rotated, both the old and the new one are accepted.
func ExampleVerifier() {
	body := []byte(`{"event_type":"task.completed","task_id":"1"}`)
	header := []string{signature.Sign("the new secret", body)} // as it comes with the request

	verifier, err := signature.NewVerifier("the old secret", "the new secret")
	if err != nil {
		panic(err)
	}
	sig, err := signature.Parse(header)
	if err != nil {
		panic(err)
	}
	secret, err := verifier.Verify(body, sig)
	fmt.Println(secret, err)
	_, err = verifier.Verify([]byte(`{"event_type":"task.completed","task_id":"2"}`), sig)
	fmt.Println(err)
	// Output:
	// 1 <nil>
	// signature matches no secret
}

// A malformed signature is told from a wrong one before the body is read.
func ExampleParse() {
	_, err := signature.Parse([]string{"not hex"})
	fmt.Println(err)
	_, err = signature.Parse(nil)
	fmt.Println(err)
	// Output:
	// signature is not 64 hex digits
	// signature header is missing
}
