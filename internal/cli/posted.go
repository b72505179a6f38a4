package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/instantapi/caddy-instantapi-verify/signature"
)

// The outcomes of a request, for scripts. The first two have the names that the
// guard gives them in its metrics.
const (
	outcomeForwarded = "forwarded"
	outcomeDuplicate = "duplicate"
	outcomeRefused   = "refused"
	outcomeNoAnswer  = "no_answer"
)

// posted is the outcome of a request.
type posted struct {
	TaskID  string  `json:"task_id,omitempty"`
	Status  int     `json:"status,omitempty"`
	Outcome string  `json:"outcome"`
	Answer  string  `json:"answer,omitempty"`
	Error   string  `json:"error,omitempty"`
	Seconds float64 `json:"seconds"` // until the answer was read
}

// post sends a signed body and reads the answer.
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
		got.Outcome = outcomeForwarded
		if saysDuplicate(answer) {
			got.Outcome = outcomeDuplicate
		}
	}
	return got
}

// saysDuplicate reports whether this is the guard's answer to a duplicate.
func saysDuplicate(answer string) bool {
	var said struct {
		Duplicate bool `json:"duplicate"`
	}
	return json.Unmarshal([]byte(answer), &said) == nil && said.Duplicate
}

// String returns the line that is printed for a person.
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
