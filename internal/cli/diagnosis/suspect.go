package diagnosis

import (
	"crypto/hmac"
	"crypto/sha256"
	"hash"
	"hash/maphash"
	"slices"
	"strings"

	"github.com/instantapi/caddy-instantapi-verify/signature"
)

// suspect is a change that bodies, or secrets, often suffer.
type suspect struct {
	// name completes "It is right for these bytes ...", or "made with the
	// secret ...".
	name string

	// change returns the body that may have been signed, or the secret that may
	// have signed it, for the one that is there. It returns nil if the suspect
	// is ruled out.
	change func([]byte) []byte

	// why says in a sentence what happened, and remedy what to do.
	why, remedy string
}

// part is an aspect of a body that a suspect changes. Suspects of the same part are
// not combined.
type part uint

const (
	layout   part = 1 << iota // white space and order of JSON
	escaping                  // of strings in JSON
	numbers                   // in JSON
	charset                   // how characters are written as bytes
	form                      // composed or decomposed characters
	ending                    // of lines, and of the whole
	wrapping                  // compression and the like
	anyPart  part = 1<<iota - 1
)

// family is a list of suspects that change the same part.
type family struct {
	suspects []suspect
	part     part
	json     bool // the signed bytes are called "the same JSON"
	newline  bool // try each with a newline at the end, too, as files have one
}

// families are the suspects of a body. Of two with the same result, the first is
// named.
var families = []family{
	{suspects: endings, part: ending},
	{suspects: marks, part: charset},
	{suspects: charsets, part: charset},
	{suspects: forms, part: form},
	{suspects: escapings, part: escaping, json: true},
	{suspects: layouts, part: layout, json: true, newline: true},
	{suspects: writers, part: layout | escaping | numbers, json: true, newline: true},
	{suspects: numberings, part: numbers, json: true},
	{suspects: wrappings, part: wrapping},
}

// Bounds of the search, in bytes of the body. One change is tried for any body. Two
// take a second or so for a body of these sizes.
const (
	maxTwoChanges = 32 << 10
	maxWithSecret = 512 << 10 // where one of the two is of the secret
)

// variant is a body that may have been signed, and what changed it.
type variant struct {
	body   []byte
	part   part
	json   bool
	names  []string
	causes []suspect
}

// with returns the variants that a suspect makes of v, none if it is ruled out.
func (v variant) with(f family, s suspect) []variant {
	changed := s.change(v.body)
	if changed == nil {
		return nil
	}
	made := variant{
		body: changed, part: v.part | f.part, json: v.json || f.json,
		names: append(slices.Clip(v.names), s.name), causes: append(slices.Clip(v.causes), s),
	}
	if !f.newline {
		return []variant{made}
	}
	ended := made
	ended.body = append(slices.Clip(changed), '\n')
	ended.names = append(slices.Clip(made.names), "with a newline at the end")
	ended.part |= ending
	return []variant{made, ended}
}

func (v variant) describe() string {
	subject := "these bytes"
	if v.json {
		subject = "the same JSON"
	}
	return subject + " " + strings.Join(v.names, ", ")
}

// key is a secret that may have made the signature, and what changed it.
type key struct {
	name   string
	value  []byte
	mac    hash.Hash
	causes []suspect
}

func newKey(name string, value []byte, causes ...suspect) key {
	return key{name, value, hmac.New(sha256.New, value), causes}
}

// search looks for what a signature is right for.
type search struct {
	sig    signature.Signature
	given  []key // the secrets as given
	others []key // and with a change
	tried  map[uint64]bool
	seed   maphash.Seed
}

// finding is what a signature is right for.
type finding struct {
	variant
	key key
}

// signed reports which of the keys made the signature of a body.
func (s *search) signed(body []byte, keys []key) (key, bool) {
	var sum signature.Signature
	for _, k := range keys {
		k.mac.Reset()
		k.mac.Write(body)
		if hmac.Equal(k.mac.Sum(sum[:0]), s.sig[:]) {
			return k, true
		}
	}
	return key{}, false
}

// isNew reports whether a body has not been tried yet.
func (s *search) isNew(body []byte) bool {
	sum := maphash.Bytes(s.seed, body)
	before := s.tried[sum]
	s.tried[sum] = true
	return !before
}

// find looks for a change of the secret or of the body that explains the signature,
// and then for two.
func (s *search) find(body []byte) (finding, bool) {
	whole := variant{body: body}
	s.isNew(body)
	if k, ok := s.signed(body, s.others); ok {
		return finding{whole, k}, true
	}
	var once []variant
	for v := range s.changes(whole) {
		if k, ok := s.signed(v.body, s.given); ok {
			return finding{v, k}, true
		}
		if len(v.body) <= maxWithSecret {
			once = append(once, v)
		}
	}
	if len(body) <= maxWithSecret {
		if k, ok := s.signed(body, changedKeys(s.others)); ok {
			return finding{whole, k}, true
		}
	}
	for _, v := range once {
		if k, ok := s.signed(v.body, s.others); ok {
			return finding{v, k}, true
		}
	}
	for _, first := range once {
		if len(body) > maxTwoChanges || len(first.body) > maxTwoChanges {
			continue // the body is large, or it was when it was unpacked
		}
		for v := range s.changes(first) {
			if k, ok := s.signed(v.body, s.given); ok {
				return finding{v, k}, true
			}
		}
	}
	return finding{}, false
}

// changes yields the variants that the suspects make of v, of parts that are not
// changed yet.
func (s *search) changes(v variant) func(yield func(variant) bool) {
	return func(yield func(variant) bool) {
		for _, f := range families {
			if f.part&v.part != 0 {
				continue
			}
			for _, suspect := range f.suspects {
				for _, made := range v.with(f, suspect) {
					if s.isNew(made.body) && !yield(made) {
						return
					}
				}
			}
		}
	}
}

// changedKeys returns the secrets that the suspects make of some.
func changedKeys(keys []key) []key {
	var changed []key
	seen := make(map[string]bool)
	for _, k := range keys {
		for _, s := range secretSuspects {
			value := s.change(k.value)
			if value == nil || seen[string(value)] {
				continue
			}
			seen[string(value)] = true
			changed = append(changed, newKey(k.name+" "+s.name, value, append(slices.Clip(k.causes), s)...))
		}
	}
	return changed
}
