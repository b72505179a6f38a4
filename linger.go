package instantapi

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"time"
)

// A sender that is refused before its body has been read may still be writing.
// If the connection were closed at once, the system would answer what arrives
// after that with a reset, and the sender could lose an answer that it has not
// read yet. So the guard answers, and then reads on for a while. That is
// bounded in time and bytes, and costs less than accepting the body.
const (
	lingerTime  = 5 * time.Second
	lingerPause = time.Second // how long a sender may pause
	lingerBytes = 64 << 20
)

// answersEarly reports whether an answer comes before the body has been read,
// on a connection that has to be closed because of that. HTTP/2 and HTTP/3 have
// their own way of telling a sender to stop.
func (x *exchange) answersEarly() bool {
	return x.body == nil && x.request.ProtoMajor == 1 && x.request.ContentLength != 0
}

// beginEarlyAnswer makes an answer go out at once. By default net/http first
// reads up to 256 KiB of the body, however long the sender takes.
func beginEarlyAnswer(w http.ResponseWriter) {
	_ = http.NewResponseController(w).EnableFullDuplex()
	w.Header().Set("Connection", "close")
}

// linger gives the sender time to read its answer by reading what it still
// writes.
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
			return errors.Is(err, io.EOF)
		}
		read += n
	}
	return false
}

// closeSoftly makes net/http end its side of the connection first, and close
// the connection half a second later. net/http does that for a sender that
// exceeds the limit of a MaxBytesReader, if the reader was given net/http's own
// writer.
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
