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

// Body is a whole body in memory, for the next handlers to read. Its
// buffer serves other requests after release.
type Body struct {
	mu     sync.Mutex // a proxy may still be sending when its handler has returned
	buffer *[]byte    // nil: released
	read   int
}

// Read reads the whole body. The buffer grows with what arrives, to at most
// twice of that or secondBuffer: a sender that announces much and sends little
// costs little. The caller must release the body.
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

// Read implements io.Reader.
func (b *Body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.buffer == nil {
		return 0, ErrReleased
	}
	if b.read == len(*b.buffer) {
		return 0, io.EOF
	}
	n := copy(p, (*b.buffer)[b.read:])
	b.read += n
	return n, nil
}

// Close implements io.Closer. It does nothing, as a proxy's next attempt may read
// on: all of the body if the one before did not reach its upstream, else only the
// rest, and then net/http ends that attempt because Content-Length says more.
func (b *Body) Close() error { return nil }

// Release gives the buffer to other requests. From here on nobody can read it.
func (b *Body) Release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	returnBuffer(b.buffer)
	b.buffer = nil
}
