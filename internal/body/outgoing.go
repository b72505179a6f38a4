package body

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"time"
)

// Outgoing is a body that is sent to a backend, and to the next one if that
// fails: each attempt gets the body from its beginning.
//
// All attempts of a proxy read from one Outgoing, because they share one
// request; [Outgoing.Trace] tells them apart. Close can't: after an early
// answer the first attempt may still be sending when the second begins, and
// HTTP/2 closes a body while reading it.
type Outgoing struct {
	body *Body // its mutex guards all of this

	position  int
	whole     bool  // the end has been read since the last beginning
	closed    bool  // by a handler, before there was an attempt
	replaced  bool  // another body is sent in place of this one
	err       error // of all further reads
	attempted bool  // there has been an attempt

	// held is how much a proxy that buffers part of the body has read before
	// the first attempt. An attempt sends what is left of that, and then reads
	// on.
	held int

	// Of the last attempt.
	traced  bool          // the trace says when it ends, as for all transports but FastCGI's
	writing bool          // it has begun to write to a backend
	asked   bool          // it has read from here
	over    bool          // it has ended
	ended   chan struct{} // nil while nobody waits for the end
}

// Outgoing returns the body for the next handlers to read.
func (b *Body) Outgoing() *Outgoing { return &Outgoing{body: b} }

// Reasons why a body can't be read once more.
var (
	errStillSending = errors.New("the attempt before this one is still sending the body")
	errHeld         = errors.New("the proxy has buffered only part of the body, and may have used it up: raise request_buffers")
	errReplaced     = errors.New("another body is sent in place of this one")
)

// How long an attempt waits for the previous one to end: patience if that one
// has read part of the body, shortPatience if it may be about to.
const (
	patience      = 5 * time.Second
	shortPatience = 100 * time.Millisecond
)

// Read implements io.Reader.
func (o *Outgoing) Read(p []byte) (int, error) {
	o.body.mu.Lock()
	defer o.body.mu.Unlock()
	if o.err != nil {
		return 0, o.err
	}
	if o.closed && !o.whole {
		return 0, http.ErrBodyReadAfterClose
	}
	if o.closed || o.attempted && o.isOverLocked() {
		o.attempted, o.traced, o.writing = false, false, false
		o.rewindLocked() // another handler reads the body, or the same one again
	}
	o.asked, o.over = true, false
	n, err := o.body.readLocked(p, o.position)
	o.position += n
	o.whole = o.whole || errors.Is(err, io.EOF)
	return n, err
}

// isOverLocked reports whether the last attempt reads no more.
func (o *Outgoing) isOverLocked() bool { return o.over || !o.traced && o.whole }

func (o *Outgoing) rewindLocked() {
	o.position, o.held = 0, 0
	o.whole, o.closed = false, false
}

// Close implements io.Closer. It does not end an attempt, see [Outgoing].
func (o *Outgoing) Close() error {
	o.body.mu.Lock()
	defer o.body.mu.Unlock()
	if !o.attempted {
		o.closed, o.replaced = true, o.position == 0
	}
	return nil
}

// Again returns another reader of the whole body. It serves as a request's
// GetBody.
func (o *Outgoing) Again() (io.ReadCloser, error) {
	o.body.mu.Lock()
	defer o.body.mu.Unlock()
	if o.replaced {
		return nil, errReplaced
	}
	return &reader{body: o.body}, nil
}

// Trace returns the trace that the context of the requests that send the body
// must have. An attempt that can't get the whole body is ended by stop, because
// it may not read again and see an error; [Outgoing.Err] says why.
//
// An attempt begins when a transport asks for a connection, and has finished
// with the body when it has written the request. FastCGI's transport does not
// ask but dials, once per attempt, and has finished with the body by the time
// it returns.
func (o *Outgoing) Trace(stop func()) *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		GetConn:      func(string) { o.begin(true, stop) },
		WroteHeaders: func() { o.write(true) },
		WroteRequest: func(httptrace.WroteRequestInfo) { o.end() },
		ConnectStart: func(string, string) { o.dial(stop) },
		ConnectDone: func(_, _ string, err error) {
			if err == nil {
				o.write(false)
			}
		},
	}
}

// Err returns why the body can't be read any more, nil if it can.
func (o *Outgoing) Err() error {
	o.body.mu.Lock()
	defer o.body.mu.Unlock()
	return o.err
}

// begin begins an attempt.
func (o *Outgoing) begin(traced bool, stop func()) {
	o.body.mu.Lock()
	defer o.body.mu.Unlock()
	// One that has read everything reads no more, and its end is not taken for the
	// end of one that is not traced.
	if o.traced && o.writing && !o.over && (traced || !o.whole) {
		o.waitLocked()
	}
	switch {
	case !o.attempted && !o.whole:
		o.held = o.position
	case o.traced != traced:
		o.rewindLocked() // it is another proxy's
	case o.held > 0 && (o.whole || !o.asked && o.writing):
		// The proxy reads no further once its buffer holds the end of the body,
		// so it is not known how much of its buffer is used up.
		o.err = errHeld
	case o.held == 0 || o.asked:
		o.rewindLocked() // the attempt asked for more, so it has used up what was held
	}
	if o.err != nil {
		stop()
	}
	o.attempted, o.traced = true, traced
	o.writing, o.asked, o.over, o.whole, o.closed = false, false, false, false, false
}

// waitLocked waits for the end of the last attempt.
func (o *Outgoing) waitLocked() {
	wait := shortPatience
	if o.asked {
		wait = patience
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	ended := make(chan struct{})
	o.ended = ended
	o.body.mu.Unlock()
	select {
	case <-ended:
	case <-timer.C:
	}
	o.body.mu.Lock()
	if o.asked && !o.over {
		o.err = errStillSending
	}
}

// dial begins an attempt, unless the dialling is for a connection that the last
// attempt asked for. That one needs none any more if it has read the whole body,
// though it may not have ended yet.
func (o *Outgoing) dial(stop func()) {
	o.body.mu.Lock()
	asked := o.traced && !o.over && !o.whole
	o.body.mu.Unlock()
	if !asked {
		o.begin(false, stop)
	}
}

// write notes that an attempt, traced or not, begins to write to a backend.
func (o *Outgoing) write(traced bool) {
	o.body.mu.Lock()
	defer o.body.mu.Unlock()
	if o.traced == traced {
		o.writing, o.over = true, false
	}
}

// end ends a traced attempt, even one that sends no body.
func (o *Outgoing) end() {
	o.body.mu.Lock()
	defer o.body.mu.Unlock()
	o.over = o.over || o.traced // another proxy's may have begun behind it
	if o.ended != nil {
		close(o.ended)
		o.ended = nil
	}
}
