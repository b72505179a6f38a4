package badger

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	badgerdb "github.com/dgraph-io/badger/v4"
	"go.uber.org/zap"
)

// logger passes Badger's log on to Caddy's. What Badger calls info becomes
// debug, because it is of no interest to an operator.
type logger struct {
	opened atomic.Bool
	first  atomic.Pointer[string]
	merges *mergeGuard // nil: nothing is merged
}

// complaint returns the first error that Badger logged while it was opening.
// Badger opens a database without a table whose checksum is wrong, and only
// logs that.
func (l *logger) complaint() error {
	if first := l.first.Load(); first != nil {
		return errors.New(*first)
	}
	return nil
}

func (l *logger) Errorf(format string, args ...any) {
	message := strings.TrimSpace(fmt.Sprintf(format, args...))
	if !l.opened.Load() {
		l.first.CompareAndSwap(nil, &message)
		return
	}
	storeLog().Error(message)
	if l.merges != nil && strings.Contains(message, badgerdb.ManifestFilename) {
		l.merges.manifestFailed()
	}
}

func (l *logger) Warningf(format string, args ...any) {
	message := strings.TrimSpace(fmt.Sprintf(format, args...))
	storeLog().Warn(message)
	if l.merges != nil && format == mergeFails && strings.Contains(message, badgerdb.ManifestFilename) {
		l.merges.manifestFailed()
		select {} // Badger would try the same again, and fail, twenty times a second
	}
}

func (l *logger) Infof(format string, args ...any) { l.Debugf(format, args...) }

func (l *logger) Debugf(format string, args ...any) {
	if l.merges != nil {
		l.merges.heed(format, args)
	}
	// Badger calls this several times per commit, so check before a logger is
	// made.
	if caddy.Log().Core().Enabled(zap.DebugLevel) {
		storeLog().Debug(strings.TrimSpace(fmt.Sprintf(format, args...)))
	}
}

// storeLog returns the log of the config in force: an open store outlives the
// config that opened it.
func storeLog() *zap.Logger { return caddy.Log().Named("instantapi_verify.store") }

// Interface guard
var _ badgerdb.Logger = (*logger)(nil)
