package main

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// batches are what a store has written so far.
type batches struct{ count, events float64 }

// batchMetric is a histogram of how many events the store wrote together.
const batchMetric = "caddy_instantapi_verify_batch_events"

// batches asks the server how it has written its events. A server without a
// store has written none.
func (s *server) batches(ctx context.Context) (written batches, err error) {
	if s.scenario.sync == "" {
		return written, nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.admin+"/metrics", nil)
	if err != nil {
		return written, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return written, err
	}
	defer res.Body.Close()
	found := 0
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		var figure *float64
		switch name {
		case batchMetric + "_count":
			figure = &written.count
		case batchMetric + "_sum":
			figure = &written.events
		default:
			continue
		}
		if *figure, err = strconv.ParseFloat(value, 64); err != nil {
			return written, fmt.Errorf("%s: %w", name, err)
		}
		found++
	}
	if found != 2 {
		return written, fmt.Errorf("the server's metrics have no %s", batchMetric)
	}
	return written, nil
}
