package badger

import (
	"bytes"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// progressInterval is how often a store that takes long to open logs its progress.
var progressInterval = 5 * time.Second

// progress logs that a store is being opened, and how much of its files has
// been verified. A nil progress logs nothing.
type progress struct {
	path                   string
	tables, tablesVerified atomic.Int64
	bytes, bytesVerified   atomic.Int64 // of tables and logs
	ended                  chan struct{}
	reporter               sync.WaitGroup
}

func startProgress(path string) *progress {
	p := &progress{path: path, ended: make(chan struct{})}
	p.reporter.Go(p.report)
	return p
}

// expect sets the tables and logs that will be verified.
func (p *progress) expect(tables manifestTables, logs []uint64) {
	if p == nil {
		return
	}
	p.tables.Store(int64(len(tables)))
	expectFile := func(name string) {
		if info, err := os.Stat(filepath.Join(p.path, name)); err == nil {
			p.bytes.Add(info.Size())
		}
	}
	for id := range tables {
		expectFile(tableName(id))
	}
	for _, number := range logs {
		expectFile(logName(number))
	}
}

func (p *progress) read(bytes int) {
	if p != nil {
		p.bytesVerified.Add(int64(bytes))
	}
}

func (p *progress) verified() {
	if p != nil {
		p.tablesVerified.Add(1)
	}
}

func (p *progress) stop() {
	close(p.ended)
	p.reporter.Wait()
}

func (p *progress) report() {
	tick := time.NewTicker(progressInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-p.ended:
			return
		}
		storeLog().Info("the store is being opened; its files are being verified", zap.String("path", p.path),
			zap.Int64("tables", p.tablesVerified.Load()), zap.Int64("of_tables", p.tables.Load()),
			zap.Int64("bytes", p.bytesVerified.Load()), zap.Int64("of_bytes", p.bytes.Load()))
	}
}

// readFile reads a file, and counts the bytes as it goes.
func (p *progress) readFile(name string) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	content := bytes.NewBuffer(make([]byte, 0, info.Size()+bytes.MinRead))
	_, err = content.ReadFrom(reportingReader{file, p})
	return content.Bytes(), err
}

type reportingReader struct {
	file     *os.File
	progress *progress
}

func (r reportingReader) Read(b []byte) (int, error) {
	n, err := r.file.Read(b)
	r.progress.read(n)
	return n, err
}
