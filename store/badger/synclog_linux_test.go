package badger

import (
	"path/filepath"
	"testing"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
	"github.com/instantapi/caddy-instantapi-verify/internal/faultfs"
	"github.com/instantapi/caddy-instantapi-verify/store"
)

// A record waits for the sync of the log, and for no other.
func TestRecordWaitsForOneSync(t *testing.T) {
	disk := faultfs.Mount(t)
	s := testStore(t, filepath.Join(disk.Dir, "store"), true)
	defer disk.Set(faultfs.Faults{})
	disk.Set(faultfs.Faults{Hang: []faultfs.Op{faultfs.Fsync}, Names: "*.vlog"})
	if err := s.Record(ctx, randomID(), store.Record{Status: 200}); err != nil {
		t.Fatalf("while syncs of the value log hang: %v", err)
	}
	disk.Set(faultfs.Faults{Hang: []faultfs.Op{faultfs.Fsync}, Names: "*" + logSuffix})
	recorded := make(chan error, 1)
	go func() { recorded <- s.Record(ctx, randomID(), store.Record{Status: 200}) }()
	caddytest.Eventually(t, "a sync of the log hangs", func() bool { return disk.Hanging() > 0 })
	select {
	case err := <-recorded:
		t.Errorf("while syncs of the log hang: got the answer %v", err)
	default:
	}
	disk.Set(faultfs.Faults{})
	if err := <-recorded; err != nil {
		t.Errorf("when they are over: %v", err)
	}
}
