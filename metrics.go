package instantapi

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/instantapi/caddy-instantapi-verify/internal/ledger"
	"github.com/instantapi/caddy-instantapi-verify/store"
	"github.com/prometheus/client_golang/prometheus"
)

// The collectors belong to the process and not to a config, so that a reload
// does not reset the counters; each config's registry gets them. The counters
// that a request increments are looked up beforehand, because looking up a
// label costs more than counting. No label's value comes from a request, or
// anybody could create series.

const (
	metricsNamespace = "caddy"
	metricsSubsystem = "instantapi_verify"
)

var (
	requestsTotal = newCounterVec("requests_total", "outcome",
		"Requests, by outcome.")

	signatureErrorsTotal = newCounterVec("signature_errors_total", "reason",
		"Requests with the outcome bad_signature, by reason.")

	secretMatchesTotal = newCounterVec("secret_matches_total", "secret",
		"Authentic requests, by the position in the config, from 1, of the secret that made the signature.")

	storeErrorsTotal = newCounterVec("store_errors_total", "operation",
		"Failures of the store, by operation.")
	storeErrorsOpen   = storeErrorsTotal.WithLabelValues("open")
	storeErrorsLookup = storeErrorsTotal.WithLabelValues("lookup")
	storeErrorsRecord = storeErrorsTotal.WithLabelValues("record")
	storeErrorsForget = storeErrorsTotal.WithLabelValues("forget")

	verifySeconds = prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem, Name: "signature_duration_seconds",
		Help:    "Time to check a signature against all secrets.",
		Buckets: prometheus.ExponentialBuckets(1e-6, 4, 10), // to 0.26 s
	})
	lookupSeconds = prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem, Name: "lookup_duration_seconds",
		Help:    "Time to ask the store whether an event was delivered before.",
		Buckets: prometheus.ExponentialBuckets(1e-6, 4, 10),
	})
	recordSeconds = prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem, Name: "record_duration_seconds",
		Help:    "Time to record a delivery as durably as the store is configured to.",
		Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
	})
)

func newCounterVec(name, label, help string) *prometheus.CounterVec {
	opts := prometheus.CounterOpts{Namespace: metricsNamespace, Subsystem: metricsSubsystem, Name: name, Help: help}
	return prometheus.NewCounterVec(opts, []string{label})
}

// ledgerMetrics are the metrics that the ledger updates.
var ledgerMetrics = ledger.Metrics{
	OpenErrors:    storeErrorsOpen,
	LookupErrors:  storeErrorsLookup,
	RecordErrors:  storeErrorsRecord,
	ForgetErrors:  storeErrorsForget,
	LookupSeconds: lookupSeconds,
	RecordSeconds: recordSeconds,
}

// registerMetrics adds the metrics to a config's registry, unless another
// handler has done so.
func registerMetrics(ctx caddy.Context) error {
	for _, collector := range []prometheus.Collector{
		requestsTotal, signatureErrorsTotal, secretMatchesTotal, storeErrorsTotal,
		verifySeconds, lookupSeconds, recordSeconds, storeCollector{},
	} {
		err := ctx.GetMetricsRegistry().Register(collector)
		if _, there := errors.AsType[prometheus.AlreadyRegisteredError](err); err != nil && !there {
			return err
		}
	}
	return nil
}

// countersOfSecrets returns one counter per secret.
func countersOfSecrets(secrets int) []prometheus.Counter {
	counters := make([]prometheus.Counter, secrets)
	for i := range counters {
		counters[i] = secretMatchesTotal.WithLabelValues(strconv.Itoa(i + 1))
	}
	return counters
}

// statisticsTimeout is how long the status page and a scrape wait for the
// store's figures.
const statisticsTimeout = 5 * time.Second

// storeCollector reads the figures of the store of the config in force when the
// metrics are scraped.
type storeCollector struct{}

var (
	inFlightDesc     = newDesc("events_in_flight", "Events that are being delivered.")
	unrecordedDesc   = newDesc("events_unrecorded", "Deliveries that only this process remembers, because the store fails.")
	storeOpenDesc    = newDesc("store_open", "1 if the store is open, 0 while it can't be opened and on_store_error decides.")
	rememberedDesc   = newDesc("events_remembered", "Events in the store. An expired or forgotten one may count until its space is reclaimed.")
	storeBytesDesc   = newDesc("store_bytes", "Size of the store on disk.")
	freeBytesDesc    = newDesc("store_free_bytes", "Free space in the store's file system.")
	minFreeBytesDesc = newDesc("store_min_free_bytes", "Free space below which the store refuses events (min_free_space).")
)

func newDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName(metricsNamespace, metricsSubsystem, name), help, nil, nil)
}

// Describe implements prometheus.Collector.
func (storeCollector) Describe(descs chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{
		inFlightDesc, unrecordedDesc, storeOpenDesc, rememberedDesc, storeBytesDesc, freeBytesDesc, minFreeBytesDesc,
	} {
		descs <- desc
	}
}

// Collect implements prometheus.Collector.
func (storeCollector) Collect(metrics chan<- prometheus.Metric) {
	app, events := acquireRunning()
	if app == nil {
		return
	}
	defer app.release()
	gauge := func(desc *prometheus.Desc, value int64) {
		metrics <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(value))
	}
	inFlight, unrecorded := events.Load()
	gauge(inFlightDesc, int64(inFlight))
	gauge(unrecordedDesc, int64(unrecorded))
	opened, err := events.Store()
	gauge(storeOpenDesc, map[bool]int64{true: 1}[err == nil])
	reader, ok := opened.(store.StatisticsReader)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), statisticsTimeout)
	defer cancel()
	stats, err := reader.Statistics(ctx)
	if err != nil {
		return // an invalid metric would fail the whole scrape, Caddy's metrics too
	}
	gauge(rememberedDesc, stats.Events)
	gauge(storeBytesDesc, stats.Bytes)
	if stats.MinFreeBytes > 0 {
		gauge(freeBytesDesc, stats.FreeBytes)
		gauge(minFreeBytesDesc, stats.MinFreeBytes)
	}
}

// Interface guards
var _ prometheus.Collector = storeCollector{}
