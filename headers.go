package instantapi

import "strconv"

// The headers by which the next handlers know what has been done for them.
const (
	headerVerified     = "X-Instantapi-Verified"
	headerDeduplicated = "X-Instantapi-Deduplicated"
	headerIdempotency  = "Idempotency-Key"
)

// prepareForward makes of the request what the next handlers get.
func (x *exchange) prepareForward() {
	r := x.request
	r.Body = x.body
	r.ContentLength = int64(x.size)
	r.TransferEncoding = nil
	r.Trailer = nil
	delete(r.Header, "Trailer")
	delete(r.Header, "Expect") // fulfilled: the body has been read
	delete(r.Header, headerDeduplicated)

	values := []string{strconv.Itoa(x.size), "true", x.id.String()} // of one header each
	r.Header["Content-Length"] = values[0:1:1]                      // FastCGI reads it here
	r.Header[headerVerified] = values[1:2:2]
	r.Header[headerIdempotency] = values[2:3:3]
}
