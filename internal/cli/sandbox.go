package cli

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

const (
	sandboxPath = "/api/v1/generate"

	// The defaults, with which the sandbox and the quick start work together.
	sandboxKey    = "demo-key"
	sandboxSecret = "demo-secret"

	// The bounds. A task's input is kept until its event is delivered, so the
	// product of the first two bounds the memory, and three times as much for
	// input that is not UTF-8, whose bytes are replaced.
	sandboxMaxBody    = 256 << 10
	sandboxMaxPending = 1000
	sandboxMaxPause   = 30 * time.Second

	// How long a request to the sandbox may take.
	sandboxRequestTimeout = 10 * time.Second
)

func newSandboxCommand() *cobra.Command {
	var s sandbox
	cmd := &cobra.Command{
		Use:   "sandbox",
		Short: "Stands in for InstantAPI in tests",
		Long: `Accepts tasks as InstantAPI does and posts a signed event for each to its
webhook_url. It needs no account, and invents the results. A request like

	POST ` + sandboxPath + `
	Authorization: Bearer <key>

	{"task": "summarize", "input": "...", "options": {}, "webhook_url": "http://localhost:8080/"}

is answered with {"task_id": "..."}. The event follows after --delay. If it gets no
2xx within --timeout, it is sent again: first after --backoff, then after twice as
long each time, up to ` + sandboxMaxPause.String() + `. Each pause varies at random by up to half. Each
attempt prints a line with its outcome. Events that are not delivered when the
sandbox ends are lost.

If other machines can reach the sandbox, it needs a key of its own, because anybody
who has the key can make it send requests anywhere.`,
		Example: `  caddy instantapi sandbox --duplicate-rate 0.5 --fail-rate 0.2
  caddy instantapi sandbox --register http://localhost:8080/webhooks/instantapi`,
		Args: noArguments,
	}
	flags := cmd.Flags()
	var key, secret credentialFlags
	var trust trustFlags
	key.register(cmd, "key", "the API `key` that clients must send (default "+sandboxKey+")")
	secret.register(cmd, "secret", secretUsage+" that signs the events (default "+sandboxSecret+")")
	trust.register(cmd)
	listen := flags.String("listen", "127.0.0.1:8090", "the `address` to listen on")
	register := flags.String("register", "", "a `URL` to send unsigned requests to at first, as if it were being registered")
	flags.DurationVar(&s.delay, "delay", time.Second, "how long a task takes")
	flags.Float64Var(&s.failRate, "fail-rate", 0, "the `share` of tasks that fail, from 0 to 1")
	flags.Float64Var(&s.duplicateRate, "duplicate-rate", 0, "the `share` of events that are delivered twice, from 0 to 1")
	flags.DurationVar(&s.timeout, "timeout", 10*time.Second, "how long to wait for the answer to an attempt")
	flags.UintVar(&s.attempts, "attempts", 8, "make at most `n` attempts to deliver an event")
	flags.DurationVar(&s.backoff, "backoff", 500*time.Millisecond, "the pause before the second attempt")

	cmd.RunE = withStatus(func(cmd *cobra.Command) (int, error) {
		apiKey, err := key.one(sandboxKey)
		if err != nil {
			return 1, err
		}
		if s.secret, err = secret.one(sandboxSecret); err != nil {
			return 1, err
		}
		s.key = sha256.Sum256([]byte(apiKey))
		if err := s.validate(); err != nil {
			return 1, err
		}
		var target *url.URL
		if *register != "" {
			if target, err = parseWebhookURL(*register); err != nil {
				return 1, fmt.Errorf("--register %v", err)
			}
		}
		trusted, err := trust.config(cmd)
		if err != nil {
			return 1, err
		}
		listener, err := sandboxListen(*listen, apiKey)
		if err != nil {
			return 1, err
		}
		defer listener.Close()

		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		context.AfterFunc(ctx, stop) // so that a second signal ends it at once

		s.client = webhookClient(trusted)
		s.log = log.New(cmd.OutOrStdout(), "", log.Ltime)
		if target != nil {
			s.register(ctx, target)
		}
		return 0, s.run(ctx, listener)
	})
	return cmd
}

// sandboxListen listens on an address. With the key that everybody knows, it has to
// be a loopback address: anybody else could make the sandbox send requests.
func sandboxListen(address, key string) (net.Listener, error) {
	addr, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("--listen takes a host and a port, as in 127.0.0.1:8090: %v", err)
	}
	if key == sandboxKey && !addr.IP.IsLoopback() {
		return nil, fmt.Errorf("the demo key is not for %s, which other machines can reach; set --key-env", address)
	}
	return net.ListenTCP("tcp", addr)
}

// sandbox stands in for InstantAPI.
type sandbox struct {
	key                     [sha256.Size]byte // the API key's digest
	secret                  string
	delay, timeout, backoff time.Duration
	failRate, duplicateRate float64
	attempts                uint
	client                  *http.Client
	log                     *log.Logger

	tasks sync.WaitGroup

	mu          sync.Mutex
	pending     int // tasks
	undelivered int // events
	ending      bool
}

func (s *sandbox) validate() error {
	switch {
	case !(s.failRate >= 0 && s.failRate <= 1): // so that NaN is wrong too
		return errors.New("--fail-rate must be from 0 to 1")
	case !(s.duplicateRate >= 0 && s.duplicateRate <= 1):
		return errors.New("--duplicate-rate must be from 0 to 1")
	case s.delay < 0:
		return errors.New("--delay must not be negative")
	case s.timeout <= 0:
		return errors.New("--timeout must be more than 0")
	case s.backoff <= 0 || s.backoff > sandboxMaxPause:
		return fmt.Errorf("--backoff must be more than 0 and at most %s", sandboxMaxPause)
	case s.attempts < 1:
		return errors.New("--attempts must be at least 1")
	}
	return nil
}
