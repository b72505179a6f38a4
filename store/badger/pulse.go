package badger

import (
	"context"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"time"
)

// pulse knows whether the disk answers before anything is read from or written
// to a mapped file. A goroutine that waits for a page of a mapped file keeps
// its processor, so the next garbage collection stops the whole process until
// the page arrives. A goroutine that waits in a system call stops no other. So
// the pulse reads a page of its own file at intervals, past the operating
// system's cache.
type pulse struct {
	read    func() error // from the disk; nil if the system offers no way to do that
	stop    func()
	last    atomic.Int64 // when the last successful reading began
	reading shared[struct{}]
}

const (
	// pulseInterval is how old a trusted reading may be. For that long after a
	// disk begins to hang, a read of a page that is not in memory can stop the
	// process.
	pulseInterval = time.Second

	// pulseFile is the file that is read. It has the size of a page, because
	// some file systems keep smaller files together with data that is always in
	// memory.
	pulseFile = markFile + ".pulse"
	pulseSize = 4096
)

// start makes the file in a directory.
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

// check returns an error if the disk fails or does not answer. It waits only if
// the last reading is too old.
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
