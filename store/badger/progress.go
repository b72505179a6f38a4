package badger

import (
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// progressInterval is how often a store that takes long to open logs its
// progress.
const progressInterval = 5 * time.Second

// progress logs how far the verification of the tables has got.
type progress struct {
	path          string
	tables, bytes int64 // of all
	tablesDone    atomic.Int64
	bytesDone     atomic.Int64
	ended         chan struct{}
	reporter      sync.WaitGroup
}

func startProgress(path string, tables manifestTables) *progress {
	p := &progress{path: path, tables: int64(len(tables)), ended: make(chan struct{})}
	for id := range tables {
		if info, err := os.Stat(filepath.Join(path, tableName(id))); err == nil {
			p.bytes += info.Size()
		}
	}
	p.reporter.Go(p.report)
	return p
}

func (p *progress) read(bytes int) { p.bytesDone.Add(int64(bytes)) }
func (p *progress) verified()      { p.tablesDone.Add(1) }

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
		storeLog().Info("verifying the store's tables before it is opened", zap.String("path", p.path),
			zap.Int64("tables", p.tablesDone.Load()), zap.Int64("of_tables", p.tables),
			zap.Int64("bytes", p.bytesDone.Load()), zap.Int64("of_bytes", p.bytes))
	}
}
