package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/go-analyze/charts"
)

// draw writes a picture of each scenario of the first run: throughput and
// latency over time.
func (r report) draw(dir string, all []result) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	for _, one := range all {
		if one.Run != 0 || len(one.samples) == 0 {
			continue
		}
		picture, err := one.svg()
		if err != nil {
			return fmt.Errorf("draw %s: %w", one.Scenario, err)
		}
		if err := os.WriteFile(filepath.Join(dir, one.Store+"-"+one.Scenario+".svg"), picture, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// svg cuts the scenario's time into forty pieces.
func (r *result) svg() ([]byte, error) {
	const pieces = 40
	begin := r.begin.UnixMicro()
	width := max(int64(r.Seconds*1e6)/pieces, 1000)
	buckets := make([][]float64, pieces+1)
	for _, s := range r.samples {
		if i := (s.At - begin) / width; i >= 0 && i <= pieces {
			buckets[i] = append(buckets[i], float64(s.Latency))
		}
	}
	var rate, p50, p99 []float64
	var labels []string
	for i, b := range buckets[:pieces] {
		slices.Sort(b)
		rate = append(rate, float64(len(b))/time.Duration(width*1000).Seconds())
		p50, p99 = append(p50, quantile(b, 0.5)), append(p99, quantile(b, 0.99))
		labels = append(labels, fmt.Sprintf("%.1f s", float64(int64(i)*width)/1e6))
	}
	p := charts.NewPainter(charts.PainterOptions{OutputFormat: charts.ChartOutputSVG, Width: 900, Height: 600})
	top := p.Child(charts.PainterBoxOption(charts.NewBox(0, 0, 900, 300)))
	bottom := p.Child(charts.PainterBoxOption(charts.NewBox(0, 300, 900, 600)))
	if err := top.LineChart(chart(fmt.Sprintf("%s, %s: deliveries a second", r.Scenario, r.Store), labels, []string{"deliveries/s"}, rate)); err != nil {
		return nil, err
	}
	if err := bottom.LineChart(chart("milliseconds from publisher to app", labels, []string{"p50", "p99"}, p50, p99)); err != nil {
		return nil, err
	}
	return p.Bytes()
}

func chart(title string, labels, names []string, lines ...[]float64) charts.LineChartOption {
	o := charts.NewLineChartOptionWithData(lines)
	o.Title.Text = title
	o.XAxis.Labels = labels
	o.XAxis.LabelCount = 8
	o.Legend.SeriesNames = names
	o.Legend.Offset = charts.OffsetRight
	o.Symbol.Shape = charts.SymbolNone
	return o
}
