package badger

import (
	"context"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"time"
)

// pulse knows whether the disk answers, before anything is read from or written to
// a mapped file. A goroutine that waits for a page of one keeps its processor, and
// the next garbage collection stops the whole process until the page is there; one
// that waits in a system call stops nobody. So a page of a file of its own is read
// again and again, past the cache of the operating system.
type pulse struct {
	read    func() error // from the disk; nil where the system has no way to do it
	stop    func()
	last    atomic.Int64 // when the last reading that succeeded began
	reading shared[struct{}]
}

const (
	// pulseInterval is how old a reading may be that is trusted. A disk that begins
	// to hang can stop the process for so long afterwards, if it is asked for a page
	// that is not in memory.
	pulseInterval = time.Second

	// pulseFile is what is read: a page, because some file systems keep smaller files
	// with what they always have in memory.
	pulseFile = markFile + ".pulse"
	pulseSize = 4096
)

// start makes the file that is read, in a directory.
func (p *pulse) start(dir string) (err error) {
	name := filepath.Join(dir, pulseFile)
	if err := writeSynced(name, string(make([]byte, pulseSize))); err != nil {
		return err
	}
	p.read, p.stop, err = uncachedReader(name)
	p.last.Store(sinceStart())
	return err
}

// end ends the use of the file.
func (p *pulse) end() {
	if p.stop != nil {
		p.stop()
	}
}

// started is where the pulse's clock begins. It only goes forward.
var started = time.Now()

func sinceStart() int64 { return int64(time.Since(started)) }

// check returns an error if the disk does not answer, or fails. It waits only where
// nothing was read for a while.
func (p *pulse) check(ctx context.Context) error {
	if p.read == nil {
		return nil
	}
	switch age := time.Duration(sinceStart() - p.last.Load()); {
	case age < pulseInterval/2:
		return nil
	case age < pulseInterval:
		p.reading.join(p.beat)
		return nil
	}
	_, err := p.reading.do(ctx, patience, p.beat)
	return err
}

func (p *pulse) beat() (struct{}, error) {
	began := sinceStart()
	if err := p.read(); err != nil {
		return struct{}{}, fmt.Errorf("reading from the disk: %w", err)
	}
	p.last.Store(began)
	return struct{}{}, nil
}
