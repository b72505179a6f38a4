package instantapi

import (
	"io"
	"net/http"
	"strings"
	"time"
)

// A sender that is refused before its body has been read may still be writing.
// Were the connection closed at once, the system would answer what arrives then
// with a reset, and that can take the answer away from a sender that has not read
// it yet. So the guard answers, and then reads on for a while. That costs no more
// than a sender can cost anyway: it is bounded in time and bytes, and little is
// made of it.
const (
	lingerTime  = 5 * time.Second
	lingerPause = time.Second // as long as a sender may pause
	lingerBytes = 64 << 20
)

// answersEarly reports whether an answer comes before the body has been read, on
// a connection that has to be closed for that. HTTP/2 and HTTP/3 have a way of
// their own to tell a sender to stop.
func (x *exchange) answersEarly() bool {
	return x.body == nil && x.request.ProtoMajor == 1 && x.request.ContentLength != 0
}

// beginEarlyAnswer lets an answer out at once. By itself net/http waits for up to
// 256 KiB of the body first, as long as the sender likes.
func beginEarlyAnswer(w http.ResponseWriter) {
	_ = http.NewResponseController(w).EnableFullDuplex()
	w.Header().Set("Connection", "close")
}

// linger lets the sender read its answer: it reads what the sender still writes.
func (x *exchange) linger() {
	control := http.NewResponseController(x.writer)
	if err := control.Flush(); err != nil {
		return // the sender has gone
	}
	if !drain(control, x.incoming) {
		closeSoftly(x.writer)
	}
}

// drain reads a body to its end, and reports whether it got there.
func drain(control *http.ResponseController, body io.Reader) bool {
	end := time.Now().Add(lingerTime)
	buffer := make([]byte, 16<<10)
	for read := 0; read < lingerBytes; {
		deadline := time.Now().Add(lingerPause)
		if deadline.After(end) {
			deadline = end
		}
		if err := control.SetReadDeadline(deadline); err != nil {
			return false
		}
		n, err := body.Read(buffer)
		if err != nil {
			return err == io.EOF
		}
		read += n
	}
	return false
}

// closeSoftly makes net/http end the connection with an end of its own writing,
// and close it half a second later. That is what it does for a sender beyond the
// limit of a MaxBytesReader, if that knows net/http's own writer.
func closeSoftly(w http.ResponseWriter) {
	for {
		wrapper, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			break
		}
		w = wrapper.Unwrap()
	}
	limited := http.MaxBytesReader(w, io.NopCloser(strings.NewReader("x")), 0)
	_, _ = limited.Read(make([]byte, 1))
}
