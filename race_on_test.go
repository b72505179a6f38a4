//go:build race

package instantapi

// raceDetector is for leaving out cases in which Caddy's own proxy has data
// races.
const raceDetector = true
