package cli

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/signature"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/net/http/httpguts"
)

// Exit statuses of `caddy instantapi send`, for scripts. Any other error is 1, as
// for all of Caddy's commands.
const (
	exitRefused  = 2 // an answer was not the expected one
	exitNoAnswer = 3 // there was none
)

// Bounds of `caddy instantapi send`, so that a digit too many is an error.
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
	trust             trustFlags
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
	s := new(sendCommand)
	cmd := &cobra.Command{
		Use:   "send (--secret <secret> | --secret-env <name>) [--url <url>] [--file <path>] [--repeat <n>] [--forge] [--count <n>]",
		Short: "Signs events and posts them to a webhook endpoint",
		Long: `Signs an event as InstantAPI does, posts it, and prints the answer.

The event is a sample, unless --file names a file with one, whose bytes are sent
unchanged. With --count, the command sends many events, each with a task_id of its
own, and prints a summary.

What is printed for an answer:
  forwarded   2xx: the backend accepted the event
  duplicate   2xx: the event was delivered before, so the backend was not called
  refused     any other answer; Caddy's log has the reason
  no answer   nobody answered, or not within --timeout

With --json, the command prints a JSON object on a line of its own for each answer
or, with --count, for the summary.

For a site whose certificate comes from Caddy's internal CA, such as
https://localhost, give --cacert or --insecure.

Exit status:
  0   all answers were as expected: 2xx or, with --forge, 401
  1   nothing could be sent (wrong flags, an unreadable file), or the command was
      interrupted
  ` + fmt.Sprint(exitRefused) + `   an event was refused or, with --forge, not answered with 401
  ` + fmt.Sprint(exitNoAnswer) + `   an event had no answer, and none was refused`,
		Example: `  caddy instantapi send --secret demo-secret --repeat 1
  caddy instantapi send --secret demo-secret --forge
  caddy instantapi send --secret-env INSTANTAPI_WEBHOOK_SECRET --file event.json \
    --url https://example.com/webhooks/instantapi
  caddy instantapi send --secret demo-secret --count 1000 --concurrency 32
  caddy instantapi send --secret demo-secret --insecure --url https://localhost/webhooks/instantapi`,
		Args:                  noArguments,
		DisableFlagsInUseLine: true,
	}
	s.secrets.register(cmd, "secret", secretUsage)
	s.trust.register(cmd)
	flags := cmd.Flags()
	flags.StringVar(&s.url, "url", "http://localhost:8080/webhooks/instantapi", "the endpoint's `URL`")
	flags.StringVar(&s.header, "signature-header", signature.DefaultHeader, "the `name` of the header with the signature, as in the guard's signature_header")
	flags.StringVar(&s.file, "file", "", "the `path` of a file with the event to send, or - for standard input")
	flags.StringVar(&s.eventType, "event-type", "task.completed", "the event's `type`; the other known one is task.failed")
	flags.StringVar(&s.taskID, "task-id", "", "the event's task_id, any `text` (default a new one)")
	flags.IntVar(&s.repeat, "repeat", 0, "send each event `n` more times")
	flags.BoolVar(&s.forge, "forge", false, "sign with a random secret, to see a forgery refused")
	flags.IntVar(&s.count, "count", 1, "send `n` different events")
	flags.IntVar(&s.concurrency, "concurrency", 8, "with --count, make `n` requests at the same time")
	flags.Float64Var(&s.rate, "rate", 0, "with --count, make at most `n` requests a second (default no limit)")
	flags.DurationVar(&s.timeout, "timeout", 30*time.Second, "how long to wait for each answer")
	flags.BoolVar(&s.json, "json", false, "print JSON, for scripts")
	for _, pair := range [][2]string{
		{"file", "event-type"}, {"file", "task-id"}, {"count", "file"}, {"count", "task-id"},
	} {
		cmd.MarkFlagsMutuallyExclusive(pair[0], pair[1])
	}
	cmd.RunE = withStatus(s.run)
	return cmd
}

// check refuses flags that make no sense.
func (s *sendCommand) check(flags *pflag.FlagSet) error {
	switch {
	case !httpguts.ValidHeaderFieldName(s.header):
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
	trust, err := s.trust.config(cmd)
	if err != nil {
		return 1, err
	}
	s.client = webhookClient(trust)
	if s.forge {
		// A right signature with one digit changed would give away the other digits.
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

// interruptible returns a context that ends with Ctrl-C. A second Ctrl-C ends the
// process, as usual.
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

// verdict returns the exit status, and the error that goes with it.
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
		return exitRefused, fmt.Errorf("%d of %d requests were refused; Caddy's log says why", unexpected, t.requests())
	case noAnswer > 0:
		return exitNoAnswer, fmt.Errorf("%d of %d requests got no answer: is Caddy running, and is --url right?", noAnswer, t.requests())
	default:
		return 0, nil
	}
}
