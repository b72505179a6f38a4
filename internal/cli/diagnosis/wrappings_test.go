package diagnosis

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"encoding/base64"
	"encoding/hex"
	"io"
	"testing"
)

// What Python's gzip.compress, zlib.compress and a raw zlib.compressobj make of
// {"task_id":"1"}.
const (
	packedText = `{"task_id":"1"}`
	inGzip     = "1f8b0800000000000203ab562a492cce8ecf4c51b2523254aa0500a8c4dbbe0f000000"
	inZlib     = "789cab562a492cce8ecf4c51b2523254aa050029d404cb"
	inDeflate  = "ab562a492cce8ecf4c51b2523254aa0500"
)

func fromHex(t *testing.T, s string) string {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestPackedBodiesAreFound(t *testing.T) {
	encoded := base64.StdEncoding.EncodeToString([]byte(packedText + "?>"))
	gzipped := fromHex(t, inGzip)
	runAll(t, []diagnosisTest{
		{name: "gzip", signed: packedText, body: gzipped, want: []string{"these bytes unpacked with gzip, made", "signed the body before it compressed it", "The signature must be of the body as it is sent"}},
		{name: "gzip, newline", signed: packedText + "\n", body: gzipped, want: []string{"unpacked with gzip", "with a newline at the end, made"}},
		{name: "zlib", signed: packedText, body: fromHex(t, inZlib), want: []string{"unpacked with zlib (Content-Encoding: deflate), made"}},
		{name: "deflate", signed: packedText, body: fromHex(t, inDeflate), want: []string{"unpacked with raw deflate", "made"}},
		{name: "signed in gzip", signed: inGoGzip(t), body: packedText, want: []string{"packed with gzip, as Go does it, made", "something has unpacked it"}},
		{name: "cut gzip", signed: packedText, body: gzipped[:20], want: []string{"secret is wrong", "looks like gzip"}},
		{name: "zstd", signed: packedText, body: "\x28\xb5\x2f\xfd\x04\x00", want: []string{"zstd"}},
		{name: "base64", signed: packedText + "?>", body: encoded + "\n", want: []string{"decoded from base64, made", "isBase64Encoded"}},
		{name: "signed base64", signed: encoded, body: packedText + "?>", want: []string{"encoded in base64, made"}},
		{name: "hex", signed: packedText, body: hex.EncodeToString([]byte(packedText)), want: []string{"decoded from hex, made"}},
		{name: "JSON in JSON", signed: packedText, body: `"{\"task_id\":\"1\"}"`, want: []string{"taken out of the JSON string", "encoded the JSON twice"}},
		{name: "signed JSON in JSON", signed: `"{\"task_id\":\"1\"}"`, body: packedText, want: []string{"as a JSON string, made"}},
		{name: "form", signed: packedText, body: "payload=%7B%22task_id%22%3A%221%22%7D", want: []string{"decoded from a form, made", "application/json"}},
	})
}

// inGoGzip is packedText as Go packs it.
func inGoGzip(t *testing.T) string {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write([]byte(packedText)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// inDeflateOf packs a text.
func inDeflateOf(t *testing.T, text string) string {
	t.Helper()
	var out bytes.Buffer
	w, err := flate.NewWriter(&out, flate.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}
