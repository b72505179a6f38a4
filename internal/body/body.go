// Package body keeps a whole request body in memory, in buffers that are used
// again.
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

// ErrReleased is for who reads a body though its request has ended.
var ErrReleased = errors.New("request has ended: its body can't be read any more")

// A buffer holds a power of two of bytes. The first one is for what comes along
// with a request's header, the second for what comes in one piece behind it;
// from there on each is twice the one before.
const (
	firstBuffer   = 4 << 10
	secondBuffer  = 32 << 10
	largestPooled = 4 << 20
)

// buffers keeps buffers between requests: a pool a size, one for firstBuffer and
// one for each from secondBuffer to largestPooled.
var buffers [9]sync.Pool

func poolOf(size int) *sync.Pool {
	return &buffers[bits.Len(uint(size/secondBuffer))]
}

// takeBuffer returns an empty buffer of one of these sizes, or of a larger one
// that is in no pool.
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
	mu     sync.Mutex // a proxy may still be sending when its handler has returned
	buffer *[]byte    // nil: released
}

// Read reads the whole body. The buffer grows with what arrives, to at most
// twice of that or secondBuffer: a sender that announces much and sends little
// costs little.
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
		case err == io.EOF:
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

// Bytes is what the body holds, until Release.
func (b *Body) Bytes() []byte { return *b.buffer }

// Release gives the buffer to other requests. From here on nobody can read it. A
// body that somebody may still need is not released, but left to the garbage
// collector: nobody tells when an error route, or whoever else comes behind a
// handler, has done with it.
func (b *Body) Release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	returnBuffer(b.buffer)
	b.buffer = nil
}

// readLocked copies what stands at this position.
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

// Failed is the body of a request that could not be read: who reads it gets the
// error.
type Failed struct{ Err error }

// Read implements io.Reader.
func (f Failed) Read([]byte) (int, error) { return 0, f.Err }

// Close implements io.Closer.
func (f Failed) Close() error { return nil }
