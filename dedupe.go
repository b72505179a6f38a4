package instantapi

import (
	"crypto/sha256"
	"encoding/binary"
	"net"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/instantapi/caddy-instantapi-verify/internal/scan"
	"github.com/instantapi/caddy-instantapi-verify/store"
)

// dedupeRule says what identifies an event for a handler.
type dedupeRule struct {
	scope  string   // empty: the request's host and path
	fields []string // of the body
}

// identify reads the event's fields and derives the event's identity from them.
// Apart from the scope, the identity depends only on what the signature covers.
func (x *exchange) identify() error {
	body, scope := x.body.Bytes(), x.handler.scopeOf(x.request)
	var room [8]jsontext.Value // on the stack, unless there are more fields than that
	values := append(room[:0], make([]jsontext.Value, len(x.handler.fields))...)
	err := scan.Members(body, x.handler.fields, values)
	if err != nil && !isEncoded(x.request) {
		return err
	}
	if err != nil {
		x.id = identifyBody(scope, body)
		return nil
	}
	x.eventType, x.taskID, x.taskStatus = scan.Text(values[0]), scan.Text(values[1]), scan.Text(values[2])

	id, ok := identifyFields(scope, values[len(eventFields):]...)
	if !ok {
		id = identifyBody(scope, body)
	}
	x.id = id
	return nil
}

// isEncoded reports whether the body need not be JSON because it has a
// Content-Encoding. Such a body is scanned all the same: the header is not
// signed, and adding it to a captured event must not change the event's
// identity.
func isEncoded(r *http.Request) bool {
	encoding := r.Header.Get("Content-Encoding")
	return encoding != "" && !strings.EqualFold(encoding, "identity")
}

// scopeOf returns the scope within which the request's event is a duplicate.
func (h *Handler) scopeOf(r *http.Request) string {
	if h.Scope != "" {
		repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
		return repl.ReplaceKnown(h.Scope, "")
	}
	original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	if !ok {
		original = *r
	}
	return defaultScope(r.Host, original.URL.Path)
}

// defaultScope returns host and path in one spelling. Caddy's matchers treat
// other spellings as the same, so a replay must not get another scope by using
// one.
func defaultScope(hostport, path string) string {
	host := strings.TrimSuffix(strings.TrimPrefix(hostport, "["), "]")
	if strings.Contains(hostport, ":") { // otherwise there is no port, and SplitHostPort would allocate an error
		if name, _, err := net.SplitHostPort(hostport); err == nil {
			host = name
		}
	}
	path = caddyhttp.CleanPath(path, true)
	return strings.ToLower(strings.TrimSuffix(host, ".") + strings.TrimSuffix(path, "/"))
}

// The first byte of what an identity is the hash of, so that the digest of a
// body never passes for a field.
const (
	identityOfFields = 'f'
	identityOfBody   = 'b'
)

// identifyFields returns the identity of the event whose fields have these
// values in this scope. Each part is prefixed with its length: "ab" and "c"
// differ from "a" and "bc". ok is false if a value is missing, empty or not
// JSON, or holds characters that had to be replaced, so that different values
// would look the same.
func identifyFields(scope string, values ...jsontext.Value) (id store.Identity, ok bool) {
	parts := appendPart(append(make([]byte, 0, 256), identityOfFields), scope)
	for _, value := range values {
		length := len(parts)
		parts = append(parts, make([]byte, lengthSize)...)
		start := len(parts)
		// The kind comes first, so that the text "1" differs from the number
		// 1.
		parts, ok = scan.AppendText(append(parts, byte(value.Kind())), value)
		if !ok || len(parts) == start+1 {
			return store.Identity{}, false
		}
		binary.BigEndian.PutUint64(parts[length:], uint64(len(parts)-start))
	}
	return cutDigest(parts), true
}

// lengthSize is how many bytes a part's length takes.
const lengthSize = 8

// identifyBody returns the identity of an event whose fields don't identify it:
// its exact bytes do.
func identifyBody(scope string, body []byte) store.Identity {
	digest := sha256.Sum256(body)
	return cutDigest(appendPart(appendPart([]byte{identityOfBody}, scope), string(digest[:])))
}

func appendPart(parts []byte, part string) []byte {
	parts = binary.BigEndian.AppendUint64(parts, uint64(len(part)))
	return append(parts, part...)
}

func cutDigest(parts []byte) store.Identity {
	digest := sha256.Sum256(parts)
	return store.Identity(digest[:len(store.Identity{})])
}
