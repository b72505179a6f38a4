package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/time/rate"
)

// sendMany sends different events. At the end it prints a summary, even if it
// is interrupted.
func (s *sendCommand) sendMany(ctx context.Context, cmd *cobra.Command) (int, error) {
	limit := rate.Inf
	if s.rate > 0 {
		limit = rate.Limit(s.rate)
	}
	limiter := rate.NewLimiter(limit, 1)
	total := s.count * (s.repeat + 1)
	bar := newProgressBar(cmd.ErrOrStderr(), total)
	run := newTaskID()
	taskID := func(n int64) string { return fmt.Sprintf("%s_%d", run, n) }

	t := newTally()
	started := time.Now()
	var taken atomic.Int64
	var senders sync.WaitGroup
	for range min(s.concurrency, s.count) {
		senders.Go(func() {
			for taken.Add(1) <= int64(s.count) {
				var body []byte
				for range s.repeat + 1 {
					if limiter.Wait(ctx) != nil {
						return
					}
					if body == nil { // numbered by its turn, so that those sent are the first ones
						body = s.numberedEvent(taskID(t.begin()))
					}
					got := s.post(ctx, body)
					if got.Outcome == outcomeNoAnswer && ctx.Err() != nil {
						t.cutOff.Add(1)
						return
					}
					t.add(got)
					_ = bar.Add(1) // only a display
				}
			}
		})
	}
	senders.Wait()
	_ = bar.Finish()

	sum := t.summary(time.Since(started))
	sum.URL, sum.FirstTask, sum.LastTask = s.target.Redacted(), taskID(1), taskID(t.last)
	if s.json {
		if err := json.NewEncoder(cmd.OutOrStdout()).Encode(sum); err != nil {
			return 1, err
		}
	} else {
		sum.print(cmd.OutOrStdout())
	}
	if sum.Requests < total {
		return 1, fmt.Errorf("interrupted after %d of %d requests", sum.Requests, total)
	}
	return s.verdict(t)
}

// numberedEvent returns one of the different events.
func (s *sendCommand) numberedEvent(taskID string) []byte {
	body, err := sampleEvent(s.eventType, taskID, sampleText, nil)
	if err != nil {
		panic(err) // impossible: only an input can be too deep, and there is none
	}
	return body
}

// newProgressBar returns a bar that is only shown on a terminal.
func newProgressBar(out io.Writer, total int) *progressbar.ProgressBar {
	return progressbar.NewOptions(total,
		progressbar.OptionSetWriter(out),
		progressbar.OptionSetVisibility(isTerminal(out)),
		progressbar.OptionSetDescription("sending"),
		progressbar.OptionShowCount(),
		progressbar.OptionShowIts(),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionClearOnFinish(),
	)
}
