//go:build race

package instantapi

// raceDetector leaves out what Caddy's own proxy has data races in.
const raceDetector = true
