//go:build race

package instantapi

// raceDetector is for leaving out cases in which Caddy's own proxy has a data race:
// where HTTP/2 ends an attempt while its body is being sent, the proxy closes its
// wrapper of the body (bodyNopCloserIfNotRead) beside a read. CI runs these cases
// without the detector.
const raceDetector = true
