package ledger

import (
	"context"
	"testing"

	"github.com/instantapi/caddy-instantapi-verify/store"
	"github.com/instantapi/caddy-instantapi-verify/store/storetest"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

func newTestLedger(s store.Store) *Ledger {
	l := Open(func(context.Context) (store.Store, error) { return s, nil }, func() {}, zap.NewNop, testMetrics)
	if err := l.AwaitOpen(); err != nil {
		panic(err)
	}
	return l
}

var testMetrics = Metrics{
	OpenErrors:   prometheus.NewCounter(prometheus.CounterOpts{}),
	LookupErrors: prometheus.NewCounter(prometheus.CounterOpts{}), RecordErrors: prometheus.NewCounter(prometheus.CounterOpts{}),
	ForgetErrors:  prometheus.NewCounter(prometheus.CounterOpts{}),
	LookupSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{}), RecordSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{}),
}

// A claim allocates little.
func TestClaimingHardlyAllocates(t *testing.T) {
	l := newTestLedger(new(storetest.Faulty))
	claims := testing.AllocsPerRun(1000, func() {
		c, _, _ := l.Claim(context.Background(), store.Identity{}, 0)
		c.Release()
	})
	if claims > 2 { // the claim and its channel
		t.Errorf("a claim allocates %v times", claims)
	}
}
