package instantapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
	"github.com/instantapi/caddy-instantapi-verify/signature"
	"github.com/instantapi/caddy-instantapi-verify/store/storetest"
)

// What Caddy writes about a request, and what it must not.

func TestPlaceholdersRouteAndAccessLogTells(t *testing.T) {
	completed, failed, unknown := caddytest.NewBackend(t, nil), caddytest.NewBackend(t, nil), caddytest.NewBackend(t, nil)
	s := caddytest.Run(t, fmt.Sprintf(`
	log
	instantapi_verify %s
	@completed vars {http.instantapi_verify.event_type} task.completed
	@failed vars {http.instantapi_verify.event_type} task.failed
	handle @completed {
		reverse_proxy %s {
			header_up X-Told "{http.instantapi_verify.task_id} {http.instantapi_verify.status} {http.instantapi_verify.outcome}"
		}
	}
	handle @failed {
		reverse_proxy %s
	}
	handle {
		reverse_proxy %s
	}`, caddytest.Secret, completed.Addr(), failed.Addr(), unknown.Addr()))
	for _, kind := range []string{"task.completed", "task.failed", "task.unheard_of"} {
		body := bytes.Replace(caddytest.Event("T-1"), []byte("task.completed"), []byte(kind), 1)
		s.Post(t, "/", body).WantForwarded(t)
	}
	completed.WantDeliveries(t, 1)
	failed.WantDeliveries(t, 1)
	unknown.WantDeliveries(t, 1)
	if told := completed.Deliveries()[0].Header.Get("X-Told"); told != "T-1 completed forwarded" {
		t.Errorf("placeholders say %q", told)
	}
	s.Send(t, "T-1").WantDuplicate(t)
	s.Post(t, "/", []byte("x"))

	var told []string
	caddytest.Eventually(t, "access log is written", func() bool {
		told = nil
		for line := range strings.Lines(s.Logged()) {
			var entry struct {
				Logger string
				Event  map[string]string `json:"instantapi_verify"`
			}
			if json.Unmarshal([]byte(line), &entry) == nil && strings.HasPrefix(entry.Logger, "http.log.access") {
				told = append(told, fmt.Sprint(entry.Event))
			}
		}
		return len(told) == 5
	})
	want := []string{
		"map[event_type:task.completed outcome:forwarded status:completed task_id:T-1]",
		"map[event_type:task.failed outcome:forwarded status:completed task_id:T-1]",
		"map[event_type:task.unheard_of outcome:forwarded status:completed task_id:T-1]",
		"map[event_type:task.completed outcome:duplicate status:completed task_id:T-1]",
		"map[outcome:bad_json]",
	}
	if fmt.Sprint(told) != fmt.Sprint(want) {
		t.Errorf("access log tells\n%s\nwant\n%s", strings.Join(told, "\n"), strings.Join(want, "\n"))
	}
}

func TestSecretsStayOutOfTheLog(t *testing.T) {
	t.Setenv("INSTANTAPI_TEST_SECRET", "whsec_do_not_tell")
	body := caddytest.Event("do-tell")
	b := caddytest.NewBackend(t, nil)
	s, faulty := caddytest.RunFaulty(t, "instantapi_verify {env.INSTANTAPI_TEST_SECRET} {\non_store_error forward\n}\nreverse_proxy "+b.Addr())
	send := func(body []byte, sig string) {
		r := caddytest.Signed(s.URL("/"), body)
		r.Header.Set(signature.DefaultHeader, sig)
		caddytest.Do(t, r)
	}
	expected := signature.Sign("whsec_do_not_tell", body)
	send(body, strings.Repeat("0", 64))
	send([]byte("junk_body_bytes"), signature.Sign("whsec_do_not_tell", []byte("junk_body_bytes")))
	faulty.SetFaults(storetest.Always(errors.New("on fire")), storetest.Always(errors.New("on fire")))
	send(body, expected)
	send(append(body, ' '), signature.Sign("whsec_do_not_tell", append(body, ' ')))
	log := s.Logged()
	for line := range strings.Lines(log) {
		if !strings.Contains(line, "instantapi_verify") {
			continue
		}
		for _, secret := range []string{"whsec_do_not_tell", expected, `"text\":\"ok`, "junk_body_bytes"} {
			if strings.Contains(strings.ToLower(line), secret) {
				t.Errorf("%q is in the log: %s", secret, line)
			}
		}
	}
	if strings.Count(log, "http.handlers.instantapi_verify") < 4 {
		t.Error("log does not tell what happened")
	}
}

// The README's way to keep signatures out of Caddy's own access log.
func TestAccessLogCanDoWithoutTheSignature(t *testing.T) {
	b := caddytest.NewBackend(t, nil)
	for _, filter := range []string{"", "format filter {\nrequest>headers>X-Instantapi-Signature delete\n}"} {
		access := filepath.Join(t.TempDir(), "access.json")
		s := caddytest.Run(t, "log {\noutput file "+caddytest.Quote(access)+"\n"+filter+"\n}\n"+caddytest.Guard(b, ""))
		body := caddytest.Event("filter" + filter)
		s.Post(t, "/", body).WantForwarded(t)
		line := ""
		caddytest.Eventually(t, "access log is written", func() bool {
			log, _ := os.ReadFile(access)
			line = string(log)
			return strings.Contains(line, `"outcome":"forwarded"`)
		})
		if logged := strings.Contains(line, signature.Sign(caddytest.Secret, body)); logged != (filter == "") {
			t.Errorf("with filter %q the signature is in the log: %t", filter, logged)
		}
		if err := caddy.Stop(); err != nil { // so that the file can be removed
			t.Fatal(err)
		}
	}
}
