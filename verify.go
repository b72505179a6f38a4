package instantapi

import (
	"time"

	"github.com/instantapi/caddy-instantapi-verify/signature"
)

// verify checks the signature, and counts the secret that made it.
func (x *exchange) verify(sig signature.Signature) error {
	start := time.Now()
	secret, err := x.handler.verifier.Verify(x.body.Bytes(), sig)
	verifySeconds.Observe(time.Since(start).Seconds())
	if err != nil {
		return err
	}
	x.handler.matches[secret].Inc()
	return nil
}
