package body

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
)

// What arrives is what was sent, at every size at which a buffer grows, however
// the bytes come in, and whether or not their number is announced.
func TestBodyIsReadWhole(t *testing.T) {
	for _, size := range []int{0, 1, firstBuffer - 1, firstBuffer, firstBuffer + 1, secondBuffer, secondBuffer + 1,
		64 << 10, 1<<20 - 1, 1 << 20, largestPooled, largestPooled + 1} {
		sent := make([]byte, size)
		for i := range sent {
			sent[i] = byte(rand.IntN(256))
		}
		for how, reader := range map[string]io.Reader{
			"at once":      bytes.NewReader(sent),
			"in halves":    iotest.HalfReader(bytes.NewReader(sent)),
			"end with all": iotest.DataErrReader(bytes.NewReader(sent)),
		} {
			for _, announced := range []int64{int64(size), -1} {
				r := &http.Request{Body: io.NopCloser(reader), ContentLength: announced}
				body, err := Read(r, int64(size))
				if err != nil {
					t.Fatalf("%d bytes %s: %v", size, how, err)
				}
				if !bytes.Equal(body.Bytes(), sent) {
					t.Errorf("%d bytes %s: they are others", size, how)
				}
				outgoing := body.Outgoing()
				forwarded, err := io.ReadAll(outgoing)
				if err != nil || !bytes.Equal(forwarded, sent) {
					t.Errorf("%d bytes %s: others are forwarded, %v", size, how, err)
				}
				body.Release()
				if _, err := outgoing.Read(make([]byte, 1)); !errors.Is(err, ErrReleased) {
					t.Errorf("after its request: got %v, want ErrReleased", err)
				}
				reader = bytes.NewReader(sent) // for the second time
			}
		}
	}
}

// Memory is bounded by what a sender has sent, whatever it announces.
func TestBodyHasNoMoreRoomThanItNeeds(t *testing.T) {
	const sent, announced = 1 << 20, 4 << 20
	body, err := Read(&http.Request{Body: io.NopCloser(&stingy{t: t, total: sent}), ContentLength: announced}, announced)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Release()
	if len(body.Bytes()) != sent {
		t.Errorf("got %d bytes, want %d", len(body.Bytes()), sent)
	}
}

// stingy sends zeros little by little, and fails the test if the buffer becomes
// larger than twice what was sent.
type stingy struct {
	t           *testing.T
	sent, total int
}

func (s *stingy) Read(p []byte) (int, error) {
	if len(p) > max(secondBuffer, s.sent) {
		s.t.Fatalf("room for %d more bytes, though only %d were sent", len(p), s.sent)
	}
	if s.sent == s.total {
		return 0, io.EOF
	}
	n := min(len(p), 1000, s.total-s.sent)
	s.sent += n
	return n, nil
}

// The buffers that a body grew out of, and on its release the last one, serve
// the next bodies. The limit is in bytes, because with -race a pool drops a
// quarter of what it gets: then about 255,000 bytes per body are allocated,
// otherwise next to none, and half a million if one of the two is not returned.
func TestBuffersAreUsedAgain(t *testing.T) {
	const size, bodies = 400_000, 500
	sent := make([]byte, size)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range bodies {
		body, err := Read(&http.Request{Body: io.NopCloser(bytes.NewReader(sent)), ContentLength: size}, size)
		if err != nil {
			t.Fatal(err)
		}
		body.Release()
	}
	runtime.ReadMemStats(&after)
	if allocated := (after.TotalAlloc - before.TotalAlloc) / bodies; allocated > size {
		t.Errorf("%d bytes allocated for each body of %d", allocated, size)
	}
}

// A proxy that is still sending after its request has ended gets no more of the
// body, and nothing of the next one in the same buffer.
func TestReleasedBodyGivesNothingAway(t *testing.T) {
	const size = 60_000
	read := func(letter byte) *Body {
		r := &http.Request{Body: io.NopCloser(bytes.NewReader(bytes.Repeat([]byte{letter}, size))), ContentLength: size}
		body, err := Read(r, size)
		if err != nil {
			t.Fatal(err)
		}
		return body
	}
	cut := 0
	for range 500 {
		mine := read('a')
		outgoing := mine.Outgoing()
		sending := make(chan []byte)
		go func() {
			sent, chunk := []byte(nil), make([]byte, 512)
			for {
				n, err := outgoing.Read(chunk)
				sent = append(sent, chunk[:n]...)
				if err != nil {
					sending <- sent
					return
				}
				runtime.Gosched()
			}
		}()
		runtime.Gosched()
		mine.Release()
		for range 4 {
			read('b').Release()
		}
		sent := <-sending
		if others := bytes.Trim(sent, "a"); len(others) > 0 {
			t.Fatalf("%d of %d bytes are another body's", len(others), len(sent))
		}
		if len(sent) < size {
			cut++
		}
	}
	if cut == 0 {
		t.Error("each was sent before its release, so this proves nothing")
	}
}

// A body that is too large, or ends early, leaves nothing to the next request.
func TestBodyOfAFailedReadIsNotSeenAgain(t *testing.T) {
	for range 100 {
		secret := strings.Repeat("SECRET", 1000)
		for _, reader := range []io.Reader{strings.NewReader(secret), iotest.TimeoutReader(iotest.OneByteReader(strings.NewReader(secret)))} {
			if _, err := Read(&http.Request{Body: io.NopCloser(reader), ContentLength: -1}, 100); err == nil {
				t.Fatal("it is read")
			}
		}
		body, err := Read(&http.Request{Body: io.NopCloser(strings.NewReader("next")), ContentLength: -1}, 100)
		if err != nil || string(body.Bytes()) != "next" {
			t.Fatalf("got %q %v", body.Bytes(), err)
		}
		body.Release()
	}
}
