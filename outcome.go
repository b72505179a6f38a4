package instantapi

import "github.com/prometheus/client_golang/prometheus"

// All outcomes of a request.
var (
	outcomeForwarded      = newOutcome("forwarded")
	outcomeUpstreamFailed = newOutcome("upstream_failed")
	outcomeDuplicate      = newOutcome("duplicate")
	outcomeChanged        = newOutcome("duplicate_changed")
	outcomeWaited         = newOutcome("waited") // and then a duplicate
	outcomeInFlight       = newOutcome("in_flight_timeout")
	outcomeMethod         = newOutcome("method")
	outcomeTooLarge       = newOutcome("too_large")
	outcomeIncomplete     = newOutcome("incomplete")
	outcomeJSON           = newOutcome("bad_json")
	outcomeStore          = newOutcome("store_error")
	outcomeProbe          = newOutcome("verification_request")

	// Four reasons of one outcome, bad_signature.
	outcomeMissing   = newBadSignature("missing")
	outcomeRepeated  = newBadSignature("repeated")
	outcomeMalformed = newBadSignature("malformed")
	outcomeMismatch  = newBadSignature("mismatch")
)

// outcome is the outcome of a request. Its name is the value of the
// placeholder, in the access log and of the metrics' label.
type outcome struct {
	name     string
	requests prometheus.Counter
	reason   prometheus.Counter // of a bad signature; otherwise nil
	lines    *lineLimit
}

// outcomes has every outcome.
var outcomes []*outcome

func newOutcome(name string) *outcome {
	o := &outcome{name: name, requests: requestsTotal.WithLabelValues(name)}
	o.lines = newLineLimit(o.reportSuppressed)
	outcomes = append(outcomes, o)
	return o
}

func newBadSignature(reason string) *outcome {
	o := newOutcome("bad_signature")
	o.reason = signatureErrorsTotal.WithLabelValues(reason)
	return o
}

// String returns the name, or "" for an outcome that is not known yet.
func (o *outcome) String() string {
	if o == nil {
		return ""
	}
	return o.name
}

// isRepeat reports whether the request was dropped because its event had been
// delivered before.
func (o *outcome) isRepeat() bool {
	return o == outcomeDuplicate || o == outcomeChanged || o == outcomeWaited
}

// count counts a request with this outcome.
func (o *outcome) count() {
	o.requests.Inc()
	if o.reason != nil {
		o.reason.Inc()
	}
}
