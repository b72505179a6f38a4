package main

import (
	"crypto/sha256"
	"fmt"
	"testing"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/signature"
)

// verifierFigures compare the verifier with the hashing that it can't do
// without.
type verifierFigures struct {
	BytesPerSecond float64 `json:"bytes_per_second"` // of 1 MiB bodies, on one core
	OverSHA256     float64 `json:"over_sha256"`
	Allocations    float64 `json:"allocations"` // per request
}

// measureVerifier lets the verifier and a bare SHA-256 take turns on 1 MiB.
func measureVerifier() (*verifierFigures, error) {
	const size, turns = 1 << 20, 50
	body := make([]byte, size)
	verifier, err := signature.NewVerifier(secret)
	if err != nil {
		return nil, err
	}
	header := []string{signature.Sign(secret, body)}
	verify := func() {
		sig, parseErr := signature.Parse(header)
		if parseErr != nil {
			err = parseErr
			return
		}
		if _, verifyErr := verifier.Verify(body, sig); verifyErr != nil {
			err = verifyErr
		}
	}
	var verified, hashed []time.Duration
	var sum byte // so that the hashing is not optimised away
	for range turns {
		start := time.Now()
		for range 8 {
			verify()
		}
		between := time.Now()
		for range 8 {
			digest := sha256.Sum256(body)
			sum |= digest[0]
		}
		verified = append(verified, between.Sub(start)/8)
		hashed = append(hashed, time.Since(between)/8)
	}
	if err != nil || sum == 0 {
		return nil, fmt.Errorf("the verifier does not work: %v", err)
	}
	return &verifierFigures{
		BytesPerSecond: size / median(verified).Seconds(),
		OverSHA256:     float64(median(hashed)) / float64(median(verified)),
		Allocations:    testing.AllocsPerRun(100, verify),
	}, nil
}
