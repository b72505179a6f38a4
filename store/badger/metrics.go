package badger

import (
	"errors"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"
)

// batchEvents belongs to the process and not to a config, so that a reload does
// not reset it. Each config's registry gets it.
var batchEvents = prometheus.NewHistogram(prometheus.HistogramOpts{
	Namespace: "caddy", Subsystem: "instantapi_verify", Name: "batch_events",
	Help:    "Events that the store wrote together, with one sync.",
	Buckets: prometheus.ExponentialBuckets(1, 2, 13), // to maxBatch
})

func registerMetrics(ctx caddy.Context) error {
	err := ctx.GetMetricsRegistry().Register(batchEvents)
	if _, there := errors.AsType[prometheus.AlreadyRegisteredError](err); there {
		return nil
	}
	return err
}
