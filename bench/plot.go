package main

import (
	"errors"
	"image/color"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
)

// writePlot draws the throughput and the CPU time of the first group's
// scenarios, relative to plain.
func (r *report) writePlot(file string) error {
	if len(r.Rows) == 0 {
		return errors.New("there is nothing to plot")
	}
	first := r.Rows[0]
	var names []string
	var served, used plotter.Values
	for _, w := range r.Rows {
		if w.Size != first.Size || w.Connections != first.Connections || w.Rate != first.Rate {
			break
		}
		names = append(names, w.Scenario)
		served = append(served, w.Ratio.Median)
		used = append(used, w.CPURatio.Median)
	}
	p := plot.New()
	p.Title.Text = "Beside a plain reverse_proxy: " + group{size: first.Size, connections: first.Connections, rate: first.Rate}.String()
	p.Y.Label.Text = "ratio to plain"
	p.Y.Min = 0
	p.Legend.Top, p.Legend.Left = true, true // above plain, which is never the highest
	p.Legend.Padding = vg.Points(4)
	p.Add(plotter.NewGrid())
	const width = 14 // points
	for i, bars := range []struct {
		what   string
		values plotter.Values
		color  color.Color
	}{
		{"requests/s, more is better", served, color.RGBA{R: 0x1f, G: 0x77, B: 0xb4, A: 0xff}},
		{"CPU time per request, less is better", used, color.RGBA{R: 0xff, G: 0x7f, B: 0x0e, A: 0xff}},
	} {
		chart, err := plotter.NewBarChart(bars.values, vg.Points(width))
		if err != nil {
			return err
		}
		chart.Color = bars.color
		chart.LineStyle.Width = 0
		chart.Offset = vg.Points(width * (float64(i) - 0.5))
		p.Add(chart)
		p.Legend.Add(bars.what, chart)
	}
	p.NominalX(names...)
	p.X.Min, p.X.Max = -0.5, float64(len(names))-0.5
	p.Y.Max = max(1.5, 1.1*p.Y.Max)
	return p.Save(24*vg.Centimeter, 10*vg.Centimeter, file)
}
