package instantapi

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/signature"
	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/time/rate"
)

// Exit statuses of `caddy instantapi send`, for scripts. 1 is what Caddy's
// commands give for any other error.
const (
	exitRefused  = 2 // an answer was not the expected one
	exitNoAnswer = 3 // there was none
)

// Bounds of `caddy instantapi send`, so that a slip of the finger is an error.
const (
	maxRequests    = 10_000_000
	maxConcurrency = 1000
)

// sendCommand is `caddy instantapi send` with its flags.
type sendCommand struct {
	client *http.Client
	target *url.URL
	secret string

	secrets           credentialFlags
	url, header       string
	file              string
	eventType, taskID string
	repeat            int
	forge             bool
	count             int
	concurrency       int
	rate              float64
	timeout           time.Duration
	json              bool
}

func newSendCommand() *cobra.Command {
	s := &sendCommand{client: webhookClient()}
	cmd := &cobra.Command{
		Use:   "send (--secret <secret> | --secret-env <name>) [--url <url>] [--file <path>] [--repeat <n>] [--forge] [--count <n>]",
		Short: "Signs events and posts them to a webhook endpoint",
		Long: `Signs an event as the sender does, posts it, and prints the answer.

The event is made up, unless --file says where there is one; its bytes are sent as
they are. With --count, many events are sent, each with a task_id of its own, and
a summary says what became of them.

What is printed for an answer:
  forwarded   2xx: the backend has taken the event
  duplicate   2xx: it had been delivered before, the backend was not called
  refused     anything else; Caddy's log has the reason
  no answer   the URL could not be reached, or not within --timeout

With --json, each answer is a line on standard output with a JSON object in it;
with --count, the summary is one.

Exit status:
  0   all answers were as expected: 2xx or, with --forge, 401
  1   nothing could be sent (wrong flags, an unreadable file), or it was interrupted
  ` + fmt.Sprint(exitRefused) + `   an event was refused or, with --forge, not answered with 401
  ` + fmt.Sprint(exitNoAnswer) + `   there was no answer to an event, and none was refused`,
		Example: `  caddy instantapi send --secret demo-secret --repeat 1
  caddy instantapi send --secret demo-secret --forge
  caddy instantapi send --secret-env INSTANTAPI_WEBHOOK_SECRET --file event.json \
    --url https://example.com/webhooks/instantapi
  caddy instantapi send --secret demo-secret --count 1000 --concurrency 32`,
		Args: noArguments,
	}
	s.secrets.register(cmd, "secret", secretUsage)
	flags := cmd.Flags()
	flags.StringVar(&s.url, "url", "http://localhost:8080/webhooks/instantapi", "the endpoint's `URL`")
	flags.StringVar(&s.header, "signature-header", signature.DefaultHeader, "`name` of the header for the signature, as in the guard's signature_header")
	flags.StringVar(&s.file, "file", "", "`path` of a file with the event to send; - is standard input")
	flags.StringVar(&s.eventType, "event-type", "task.completed", "the event's `type`; task.failed is the other one that is known")
	flags.StringVar(&s.taskID, "task-id", "", "the event's task_id, any `text` (default a new one)")
	flags.IntVar(&s.repeat, "repeat", 0, "send each event `n` more times")
	flags.BoolVar(&s.forge, "forge", false, "sign with a random secret instead, to see the forgery refused")
	flags.IntVar(&s.count, "count", 1, "send `n` events, each with a task_id of its own")
	flags.IntVar(&s.concurrency, "concurrency", 8, "with --count, make `n` requests at the same time")
	flags.Float64Var(&s.rate, "rate", 0, "with --count, make at most `n` requests a second (default no limit)")
	flags.DurationVar(&s.timeout, "timeout", 30*time.Second, "how long to wait for each answer")
	flags.BoolVar(&s.json, "json", false, "print JSON for scripts, see above")
	for _, pair := range [][2]string{
		{"file", "event-type"}, {"file", "task-id"}, {"count", "file"}, {"count", "task-id"},
	} {
		cmd.MarkFlagsMutuallyExclusive(pair[0], pair[1])
	}
	cmd.RunE = withStatus(s.run)
	return cmd
}

// check refuses what makes no sense.
func (s *sendCommand) check(flags *pflag.FlagSet) error {
	switch {
	case s.header == "" || strings.Trim(s.header, tokenCharacters) != "":
		return fmt.Errorf("--signature-header: %q is not a header name", s.header)
	case flags.Changed("file") && s.file == "":
		return errors.New("--file is empty; give a path, or - for standard input")
	case s.eventType == "":
		return errors.New("--event-type is empty; leave it out for task.completed")
	case flags.Changed("task-id") && s.taskID == "":
		return errors.New("--task-id is empty; leave it out for a new one")
	case s.repeat < 0 || s.repeat >= maxRequests:
		return fmt.Errorf("--repeat must be from 0 to %d", maxRequests-1)
	case s.count < 1 || s.count > maxRequests:
		return fmt.Errorf("--count must be from 1 to %d", maxRequests)
	case int64(s.count)*int64(s.repeat+1) > maxRequests:
		return fmt.Errorf("--count and --repeat make more than %d requests", maxRequests)
	case !flags.Changed("count") && (flags.Changed("concurrency") || flags.Changed("rate")):
		return errors.New("--concurrency and --rate need --count")
	case s.concurrency < 1 || s.concurrency > maxConcurrency:
		return fmt.Errorf("--concurrency must be from 1 to %d", maxConcurrency)
	case flags.Changed("rate") && !(s.rate > 0 && s.rate <= math.MaxFloat64):
		return errors.New("--rate must be above 0; leave it out for no limit")
	case s.timeout <= 0:
		return errors.New("--timeout must be above 0, like 30s")
	default:
		return nil
	}
}

func (s *sendCommand) run(cmd *cobra.Command) (int, error) {
	if err := s.check(cmd.Flags()); err != nil {
		return 1, err
	}
	var err error
	if s.target, err = parseWebhookURL(s.url); err != nil {
		return 1, fmt.Errorf("--url %v", err)
	}
	if s.secret, err = s.secrets.one(""); err != nil {
		return 1, err
	}
	if s.forge {
		// Not a digit off the right signature: it would travel, and be logged.
		s.secret = rand.Text()
	}
	if cmd.Flags().Changed("count") {
		ctx, stop := interruptible(cmd.Context())
		defer stop()
		return s.sendMany(ctx, cmd)
	}
	body, err := s.event(cmd)
	if err != nil {
		return 1, err
	}
	ctx, stop := interruptible(cmd.Context())
	defer stop()
	return s.sendOne(ctx, cmd, body)
}

// interruptible returns a context that Ctrl-C ends. A second one ends the
// process, as it does without.
func interruptible(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// event returns the body to send.
func (s *sendCommand) event(cmd *cobra.Command) ([]byte, error) {
	if s.file != "" {
		return readInput(cmd, s.file)
	}
	taskID := s.taskID
	if taskID == "" {
		taskID = newTaskID()
	}
	return sampleEvent(s.eventType, taskID, sampleText, nil)
}

const sampleText = "Made up by caddy instantapi send"

// sendOne sends one event and its repeats, and prints each answer.
func (s *sendCommand) sendOne(ctx context.Context, cmd *cobra.Command, body []byte) (int, error) {
	out := cmd.OutOrStdout()
	eventType, taskID := describeEvent(body)
	if !s.json {
		fmt.Fprintf(out, "event_type %s, task_id %s\n", orNone(eventType), orNone(taskID))
	}
	t := newTally()
	for range s.repeat + 1 {
		got := s.post(ctx, body)
		if got.Outcome == outcomeNoAnswer && ctx.Err() != nil {
			return 1, fmt.Errorf("interrupted after %d of %d requests", t.requests(), s.repeat+1)
		}
		t.add(got)
		if s.json {
			got.TaskID = taskID
			if err := json.NewEncoder(out).Encode(got); err != nil {
				return 1, err
			}
			continue
		}
		fmt.Fprintln(out, got)
	}
	return s.verdict(t)
}

// describeEvent returns what a body says of itself, if it is an event at all.
func describeEvent(body []byte) (eventType, taskID string) {
	values, err := scanEvent(body, []string{"event_type", "task_id"})
	if err != nil {
		return "", ""
	}
	return text(values[0]), text(values[1])
}

func orNone(s string) string {
	if s == "" {
		return "(none)"
	}
	return printable(s)
}

// sendMany sends distinct events, and prints a summary in the end, also when
// it is interrupted.
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
			for n := taken.Add(1); n <= int64(s.count); n = taken.Add(1) {
				body, err := sampleEvent(s.eventType, taskID(n), sampleText, nil)
				if err != nil {
					panic(err) // can't happen: there is no input that could be too deep
				}
				for range s.repeat + 1 {
					if limiter.Wait(ctx) != nil {
						return
					}
					t.begin(n)
					got := s.post(ctx, body)
					if got.Outcome == outcomeNoAnswer && ctx.Err() != nil {
						t.cutOff.Add(1)
						return
					}
					t.add(got)
					_ = bar.Add(1) // it is there to look at
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

// newProgressBar returns a bar that is only there on a terminal.
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

// verdict returns the exit status for what was answered.
func (s *sendCommand) verdict(t *tally) (int, error) {
	unexpected := t.count(outcomeRefused)
	if s.forge {
		unexpected = t.requests() - t.count(outcomeNoAnswer) - t.statuses[http.StatusUnauthorized]
	}
	noAnswer := t.count(outcomeNoAnswer)
	switch {
	case unexpected > 0 && s.forge:
		return exitRefused, fmt.Errorf("%d of %d forged events were not answered with 401: is this the URL of a guarded endpoint?", unexpected, t.requests())
	case unexpected > 0:
		return exitRefused, fmt.Errorf("%d of %d requests were refused; the log of the Caddy that answered says why", unexpected, t.requests())
	case noAnswer > 0:
		return exitNoAnswer, fmt.Errorf("%d of %d requests got no answer: does Caddy run, and is --url right?", noAnswer, t.requests())
	default:
		return 0, nil
	}
}

// The outcomes that only who sends an event can tell.
const (
	outcomeRefused  = "refused"
	outcomeNoAnswer = "no_answer"
)

// posted is what came of a request.
type posted struct {
	TaskID  string  `json:"task_id,omitempty"`
	Status  int     `json:"status,omitempty"`
	Outcome string  `json:"outcome"`
	Answer  string  `json:"answer,omitempty"`
	Error   string  `json:"error,omitempty"`
	Seconds float64 `json:"seconds"` // until the answer had been read
}

// post sends a body, signed, and reads the answer.
func (s *sendCommand) post(ctx context.Context, body []byte) (got posted) {
	started := time.Now()
	defer func() { got.Seconds = time.Since(started).Seconds() }()
	r, err := webhookRequest(ctx, http.MethodPost, s.target, body)
	if err != nil {
		return posted{Outcome: outcomeNoAnswer, Error: err.Error()}
	}
	r.Header.Set(s.header, signature.Sign(s.secret, body))
	status, answer, err := exchange(s.client, r, s.timeout)
	if err != nil {
		return posted{Outcome: outcomeNoAnswer, Error: err.Error()}
	}
	got = posted{Status: status, Answer: answer, Outcome: outcomeRefused}
	if status/100 == 2 {
		got.Outcome = outcomeForwarded.String()
		if saysDuplicate(answer) {
			got.Outcome = outcomeDuplicate.String()
		}
	}
	return got
}

// saysDuplicate reports whether an answer is the guard's to a repeat.
func saysDuplicate(answer string) bool {
	var said struct {
		Duplicate bool `json:"duplicate"`
	}
	return json.Unmarshal([]byte(answer), &said) == nil && said.Duplicate
}

// String is the line that is printed for a person.
func (got posted) String() string {
	status, outcome, said := fmt.Sprint(got.Status), got.Outcome, got.Answer
	if got.Outcome == outcomeNoAnswer {
		status, outcome, said = "---", "no answer", got.Error
	}
	return fmt.Sprintf("%s %-10s  %s  %s", status, outcome, printable(said), inUnits(got.Seconds))
}

func inUnits(seconds float64) string {
	switch {
	case seconds < 0.01:
		return fmt.Sprintf("%.1f ms", seconds*1000)
	case seconds < 10:
		return fmt.Sprintf("%.0f ms", seconds*1000)
	default:
		return fmt.Sprintf("%.1f s", seconds)
	}
}

// tally counts what came of requests. It is safe for concurrent use until it is
// read.
type tally struct {
	mu         sync.Mutex
	outcomes   map[string]int
	statuses   map[int]int
	latencies  []float64 // in seconds, of those that were answered
	firstError string
	last       int64        // of the events that were begun to be sent
	cutOff     atomic.Int64 // by Ctrl-C, so that nobody knows what came of them
}

func newTally() *tally {
	return &tally{outcomes: make(map[string]int), statuses: make(map[int]int)}
}

func (t *tally) begin(n int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = max(t.last, n)
}

func (t *tally) add(got posted) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.outcomes[got.Outcome]++
	if got.Outcome != outcomeNoAnswer {
		t.statuses[got.Status]++
		t.latencies = append(t.latencies, got.Seconds)
	} else if t.firstError == "" {
		t.firstError = got.Error
	}
}

func (t *tally) count(outcome string) int { return t.outcomes[outcome] }

func (t *tally) requests() int {
	sum := 0
	for _, n := range t.outcomes {
		sum += n
	}
	return sum
}

// summary is what `caddy instantapi send --count` prints in the end.
type summary struct {
	URL        string      `json:"url"`
	FirstTask  string      `json:"first_task_id"`
	LastTask   string      `json:"last_task_id"`
	Requests   int         `json:"requests"` // that came to an end
	Forwarded  int         `json:"forwarded"`
	Duplicates int         `json:"duplicates"`
	Refused    int         `json:"refused"`
	NoAnswer   int         `json:"no_answer"`
	CutOff     int         `json:"cut_off"`
	FirstError string      `json:"first_error,omitempty"`
	Statuses   map[int]int `json:"statuses"`
	Seconds    float64     `json:"seconds"`
	PerSecond  float64     `json:"requests_per_second"`
	Latency    latency     `json:"latency_seconds"`
}

// latency is until the answer had been read, in seconds, of the requests that
// were answered.
type latency struct {
	P50 float64 `json:"p50"`
	P90 float64 `json:"p90"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

func (t *tally) summary(took time.Duration) summary {
	slices.Sort(t.latencies)
	return summary{
		Requests:   t.requests(),
		Forwarded:  t.count(outcomeForwarded.String()),
		Duplicates: t.count(outcomeDuplicate.String()),
		Refused:    t.count(outcomeRefused),
		NoAnswer:   t.count(outcomeNoAnswer),
		CutOff:     int(t.cutOff.Load()),
		FirstError: t.firstError,
		Statuses:   t.statuses,
		Seconds:    took.Seconds(),
		PerSecond:  float64(t.requests()) / took.Seconds(),
		Latency: latency{
			percentile(t.latencies, 50),
			percentile(t.latencies, 90),
			percentile(t.latencies, 99),
			percentile(t.latencies, 100),
		},
	}
}

// percentile returns the smallest value that p percent of the sorted values do
// not exceed, 0 if there are none.
func percentile(sorted []float64, p int) float64 {
	if len(sorted) == 0 {
		return 0
	}
	rank := (len(sorted)*p + 99) / 100
	return sorted[rank-1]
}

func (s summary) print(out io.Writer) {
	fmt.Fprintf(out, "%s\ntask_id %s to %s\n\n", s.URL, s.FirstTask, s.LastTask)
	fmt.Fprintf(out, "requests    %8d   in %.2f s, %.0f a second\n", s.Requests, s.Seconds, s.PerSecond)
	fmt.Fprintf(out, "forwarded   %8d\nduplicates  %8d\nrefused     %8d\nno answer   %8d", s.Forwarded, s.Duplicates, s.Refused, s.NoAnswer)
	if s.FirstError != "" {
		fmt.Fprintf(out, "   the first: %s", printable(s.FirstError))
	}
	fmt.Fprintln(out)
	if s.CutOff > 0 {
		fmt.Fprintf(out, "cut off     %8d   they may have been delivered\n", s.CutOff)
	}
	for _, status := range slices.Sorted(maps.Keys(s.Statuses)) {
		fmt.Fprintf(out, "status %d  %8d\n", status, s.Statuses[status])
	}
	if len(s.Statuses) > 0 {
		fmt.Fprintf(out, "latency     p50 %s, p90 %s, p99 %s, max %s\n",
			inUnits(s.Latency.P50), inUnits(s.Latency.P90), inUnits(s.Latency.P99), inUnits(s.Latency.Max))
	}
}
