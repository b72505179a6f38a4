package cli

import "testing"

func TestPercentiles(t *testing.T) {
	var sorted []float64
	for i := range 1000 {
		sorted = append(sorted, float64(i+1))
	}
	for _, test := range []struct {
		values []float64
		p      int
		want   float64
	}{
		{nil, 50, 0},
		{sorted[:1], 50, 1},
		{sorted[:1], 100, 1},
		{sorted[:2], 50, 1},
		{sorted[:3], 50, 2},
		{sorted[:10], 99, 10},
		{sorted, 50, 500},
		{sorted, 99, 990},
		{sorted, 100, 1000},
	} {
		if got := percentile(test.values, test.p); got != test.want {
			t.Errorf("p%d of %d values is %v, want %v", test.p, len(test.values), got, test.want)
		}
	}
}
