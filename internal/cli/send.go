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
	s.trust.register(cmd)
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
