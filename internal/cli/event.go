package cli

import (
	"crypto/rand"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// anyText allows half an emoji, which JSON.stringify writes for a text that was
// cut in the middle of one.
var anyText = jsontext.AllowInvalidUTF8(true)

func newTaskID() string { return "task_" + strings.ToLower(rand.Text()[:12]) }

// sampleEvent returns the body of an event like InstantAPI's. Its result
// contains the text says (as the error if the task failed) and the input, if
// there is one. It fails for an input that is nested as deeply as JSON may be:
// inside an event it would be too deep.
func sampleEvent(eventType, taskID, says string, input jsontext.Value) ([]byte, error) {
	type result struct {
		Text  string         `json:"text,omitzero"`
		Error string         `json:"error,omitzero"`
		Input jsontext.Value `json:"input,omitzero"`
	}
	type usage struct {
		Cost float64 `json:"cost"`
	}
	event := struct {
		EventType string `json:"event_type"`
		TaskID    string `json:"task_id"`
		Status    string `json:"status"`
		Result    result `json:"result"`
		Usage     usage  `json:"usage"`
	}{
		eventType, taskID, strings.TrimPrefix(eventType, "task."), result{Text: says, Input: input}, usage{0.01},
	}
	if eventType == "task.failed" {
		event.Result.Text, event.Result.Error, event.Usage.Cost = "", says, 0
	}
	return json.Marshal(event, anyText)
}

// describeEvent returns the type and the task of an event, empty where the body
// does not have them.
func describeEvent(body []byte) (eventType, taskID string) {
	var event struct {
		EventType jsontext.Value `json:"event_type"`
		TaskID    jsontext.Value `json:"task_id"`
	}
	if json.Unmarshal(body, &event, anyText, jsontext.AllowDuplicateNames(true)) != nil {
		return "", ""
	}
	return text(event.EventType), text(event.TaskID)
}

// text returns the characters of a string, and any other value as its JSON. It
// returns "" for null and for a value that is missing.
func text(value jsontext.Value) string {
	switch value.Kind() {
	case jsontext.KindString:
		said, _ := jsontext.AppendUnquote(nil, value) // lone surrogates become U+FFFD
		return string(said)
	case jsontext.KindNull, jsontext.KindInvalid:
		return ""
	default:
		return string(value)
	}
}

func orNone(s string) string {
	if s == "" {
		return "(none)"
	}
	return printable(s)
}
