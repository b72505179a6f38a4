package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"strings"
)

const secret = "bench-secret"

// template is the body that all events of one size share, except for the number
// in their task_id. The number is near the end, so that signing an event hashes
// only its last bytes: the rest is hashed once.
type template struct {
	body     []byte
	numberAt int
	prefix   hash.Cloner // the HMAC's state before the number
}

// numberLen is the length of an event's number in hex.
const numberLen = 16

const (
	bodyStart = `{"event_type":"task.completed","status":"completed","result":{"text":"`
	bodyEnd   = `"},"usage":{"input_tokens":412,"output_tokens":988,"cost":0.01},"task_id":"task_0000000000000000"}`

	// filling is text with escapes like those in a model's answers.
	filling = `The invoice lists three items, and the second one (\"Shipping\") has no tax.\n` +
		`- Total: 1,204.50 EUR, due within 30 days\n- Customer: M\u00fcller & S\u00f6hne\n\n`

	minimumSize = len(bodyStart) + len(bodyEnd)
)

func newTemplate(size int) (*template, error) {
	if size < minimumSize {
		return nil, fmt.Errorf("a body has at least %d bytes, not %d", minimumSize, size)
	}
	room := size - minimumSize
	text := strings.Repeat(filling, room/len(filling))
	t := &template{
		body:     []byte(bodyStart + text + strings.Repeat(".", room-len(text)) + bodyEnd),
		numberAt: size - numberLen - len(`"}`),
	}
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(t.body[:t.numberAt])
	t.prefix = mac.(hash.Cloner)
	return t, nil
}

// stamp is what tells one event from another.
type stamp struct {
	number    [numberLen]byte
	signature [2 * sha256.Size]byte // in hex
}

// sign returns n events, numbered from first.
func (t *template) sign(first uint64, n int) ([]stamp, error) {
	stamps := make([]stamp, n)
	var raw [numberLen / 2]byte
	for i := range stamps {
		number := first + uint64(i)
		for j := range raw {
			raw[j] = byte(number >> (8 * (len(raw) - 1 - j)))
		}
		hex.Encode(stamps[i].number[:], raw[:])
		mac, err := t.prefix.Clone()
		if err != nil {
			return nil, err
		}
		mac.Write(stamps[i].number[:])
		mac.Write(t.body[t.numberAt+numberLen:])
		hex.Encode(stamps[i].signature[:], mac.Sum(nil))
	}
	return stamps, nil
}

// number returns the number of the event in a body. ok is false if the body is
// not exactly one of this template's.
func (t *template) number(body []byte) (number uint64, ok bool) {
	if len(body) != len(t.body) {
		return 0, false
	}
	end := t.numberAt + numberLen
	var raw [numberLen / 2]byte
	if _, err := hex.Decode(raw[:], body[t.numberAt:end]); err != nil {
		return 0, false
	}
	for _, b := range raw {
		number = number<<8 | uint64(b)
	}
	return number, bytes.Equal(body[:t.numberAt], t.body[:t.numberAt]) && bytes.Equal(body[end:], t.body[end:])
}

// request is a request as it is sent. Each connection has its own, and
// changes only the event in it.
type request struct {
	wire        []byte
	numberAt    int
	signatureAt int // 0: unsigned
}

func (t *template) request(host string, sends kind) *request {
	head := "POST /webhooks/instantapi HTTP/1.1\r\nHost: " + host +
		"\r\nContent-Type: application/json\r\nContent-Length: " + fmt.Sprint(len(t.body)) + "\r\n"
	r := new(request)
	if sends != unsignedEvents {
		head += "X-InstantAPI-Signature: "
		r.signatureAt = len(head)
		head += strings.Repeat("0", 2*sha256.Size) + "\r\n"
	}
	head += "\r\n"
	r.numberAt = len(head) + t.numberAt
	r.wire = append([]byte(head), t.body...)
	return r
}

func (r *request) set(s *stamp) {
	copy(r.wire[r.numberAt:], s.number[:])
	if r.signatureAt > 0 {
		copy(r.wire[r.signatureAt:], s.signature[:])
	}
}

// forge makes the signatures wrong in one digit.
func forge(stamps []stamp) {
	for i := range stamps {
		digit := &stamps[i].signature[i%len(stamps[i].signature)]
		if *digit == '0' {
			*digit = '1'
		} else {
			*digit = '0'
		}
	}
}
