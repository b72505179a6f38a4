// Package body keeps a whole request body in memory, in reusable buffers.
package body

import (
	"errors"
	"fmt"
	"io"
	"math/bits"
	"net/http"
	"sync"
)

// ErrTooLarge means that a body has more bytes than it may have.
var ErrTooLarge = errors.New("body is larger than max_body_size")

// ErrReleased means that a body is read although its request has ended.
var ErrReleased = errors.New("request has ended: its body can't be read any more")

// The size of a buffer is a power of two. The first buffer is for what arrives
// together with a request's header, the second for what arrives in one piece
// behind it; from there on each is twice as large as the one before.
const (
	firstBuffer   = 4 << 10
	secondBuffer  = 32 << 10
	largestPooled = 4 << 20
)

// buffers keeps buffers between requests, with one pool per size: firstBuffer,
// and each size from secondBuffer to largestPooled.
var buffers [9]sync.Pool

func poolOf(size int) *sync.Pool {
	return &buffers[bits.Len(uint(size/secondBuffer))]
}

// takeBuffer returns an empty buffer of one of these sizes, or of a larger size
// that is not pooled.
func takeBuffer(size int) *[]byte {
	if size <= largestPooled {
		if buffer, ok := poolOf(size).Get().(*[]byte); ok {
			return buffer
		}
	}
	buffer := make([]byte, 0, size)
	return &buffer
}

func returnBuffer(buffer *[]byte) {
	if cap(*buffer) > largestPooled {
		return
	}
	*buffer = (*buffer)[:0]
	poolOf(cap(*buffer)).Put(buffer)
}

// Body is a whole body in memory, for the next handlers to read as often as they
// need to. Its buffer serves other requests after Release.
type Body struct {
	mu     sync.Mutex // a proxy may still be sending after its handler has returned
	buffer *[]byte    // nil: released
}

// Read reads the whole body, of at most limit bytes. The buffer grows with what
// arrives, to at most twice as much or secondBuffer: a sender that announces
// much and sends little costs little.
func Read(r *http.Request, limit int64) (*Body, error) {
	if r.ContentLength > limit {
		return nil, ErrTooLarge
	}
	buffer := takeBuffer(firstBuffer)
	for {
		if len(*buffer) == cap(*buffer) {
			buffer = growBuffer(buffer)
		}
		n, err := r.Body.Read((*buffer)[len(*buffer):cap(*buffer)])
		*buffer = (*buffer)[:len(*buffer)+n]
		switch {
		case int64(len(*buffer)) > limit:
			returnBuffer(buffer)
			return nil, ErrTooLarge
		case errors.Is(err, io.EOF):
			return &Body{buffer: buffer}, nil
		case err != nil:
			err = fmt.Errorf("reading the body after %d bytes: %w", len(*buffer), err)
			returnBuffer(buffer)
			return nil, err
		}
	}
}

// growBuffer returns a larger buffer with the same content.
func growBuffer(full *[]byte) *[]byte {
	grown := takeBuffer(max(secondBuffer, 2*cap(*full)))
	*grown = append(*grown, *full...)
	returnBuffer(full)
	return grown
}

// Bytes returns the body's content, which is valid until Release.
func (b *Body) Bytes() []byte { return *b.buffer }

// Release gives the buffer to other requests; the body can't be read any more.
// A body that may still be needed after its handler returns is left to the
// garbage collector instead, because nothing says when an error route has
// finished with it.
func (b *Body) Release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	returnBuffer(b.buffer)
	b.buffer = nil
}

// readLocked copies what is at this position.
func (b *Body) readLocked(p []byte, position int) (int, error) {
	if b.buffer == nil {
		return 0, ErrReleased
	}
	if position == len(*b.buffer) {
		return 0, io.EOF
	}
	return copy(p, (*b.buffer)[position:]), nil
}

// reader reads a body once.
type reader struct {
	body     *Body
	position int
	closed   bool
}

// Read implements io.Reader.
func (r *reader) Read(p []byte) (int, error) {
	r.body.mu.Lock()
	defer r.body.mu.Unlock()
	if r.closed {
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := r.body.readLocked(p, r.position)
	r.position += n
	return n, err
}

// Close implements io.Closer.
func (r *reader) Close() error {
	r.body.mu.Lock()
	defer r.body.mu.Unlock()
	r.closed = true
	return nil
}

// Failed is the body of a request that could not be read. Reading it returns
// the error.
type Failed struct{ Err error }

// Read implements io.Reader.
func (f Failed) Read([]byte) (int, error) { return 0, f.Err }

// Close implements io.Closer.
func (f Failed) Close() error { return nil }
