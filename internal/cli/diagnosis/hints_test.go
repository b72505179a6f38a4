package diagnosis

import "testing"

func TestUnexplainedSignatures(t *testing.T) {
	const nothing = "secret is wrong, or the bytes were changed"
	runAll(t, []diagnosisTest{
		{name: "another secret", with: "another", want: []string{nothing}},
		{name: "another body", body: `{"task_id":"2"}`, want: []string{nothing}},
		{name: "cut", body: sent[:60], want: []string{nothing, "not one JSON object: was it cut"}},
		{name: "not JSON", body: "hello", want: []string{nothing, "not one JSON object"}},
		{name: "NaN", body: `{"a": NaN}`, want: []string{nothing, "NaN"}},
	})
	got := hints(nil)
	if len(got) != 1 || got[0] != "The body is empty: was it read before, or lost?" {
		t.Errorf("of an empty body it says %q", got)
	}
	if got := hints([]byte("\uFEFF" + sent)); len(got) != 0 {
		t.Errorf("of a whole body it says %q", got)
	}
}
