package app

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/handover-dev/handover/internal/dispatch"
	"github.com/handover-dev/handover/internal/store"
)

// metrics are what /metrics shows. Every label has a closed set of values, or
// one per source or stage that the operator configured.
type metrics struct {
	registry *prometheus.Registry
	handler  http.Handler

	accepted, relayed, routed, created, expired prometheus.Counter

	attempts          *prometheus.CounterVec
	results           *prometheus.CounterVec
	duration, latency prometheus.Histogram
	rejected          *prometheus.CounterVec

	byClass map[dispatch.Class]prometheus.Counter
	byState map[store.State]prometheus.Counter
}

func newMetrics(reg *prometheus.Registry, version string) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "handover", Name: name, Help: help})
	}
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "handover", Name: name, Help: help}, labels)
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "handover", Name: name, Help: help, Buckets: buckets})
	}
	m := &metrics{
		registry: reg,
		accepted: counter("events_accepted_total", "Events recorded."),
		relayed:  counter("events_relayed_total", "Events given to the stream, repeats included."),
		routed:   counter("events_routed_total", "Events turned into deliveries."),
		created:  counter("deliveries_created_total", "Deliveries created."),
		expired:  counter("expired_events_total", "Events deleted for their age."),
		attempts: vec("attempts_total", "Attempts by what came of them.", "class"),
		results:  vec("attempt_results_total", "Attempts by the state in which they left their delivery; pending means another attempt follows.", "state"),
		duration: histogram("attempt_duration_seconds", "Time of an attempt.", prometheus.ExponentialBuckets(0.001, 2, 15)),
		latency: histogram("delivery_latency_seconds", "Time from the commit of an event to the end of a successful delivery.",
			append(prometheus.ExponentialBuckets(0.001, 2, 16), 300, 3600, 6*3600, 24*3600, 76*3600)),
		rejected: vec("webhooks_rejected_total", "Inbound webhooks that were rejected, by source and reason.", "source", "reason"),
		byClass:  make(map[dispatch.Class]prometheus.Counter),
		byState:  make(map[store.State]prometheus.Counter),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: "handover", Name: "build_info", Help: "The version that runs.", ConstLabels: prometheus.Labels{"version": version},
	})
	build.Set(1)
	reg.MustRegister(m.accepted, m.relayed, m.routed, m.created, m.expired, m.attempts, m.results, m.duration, m.latency, m.rejected, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, class := range dispatch.Classes() {
		m.byClass[class] = m.attempts.WithLabelValues(string(class))
	}
	for _, state := range []store.State{store.Pending, store.Succeeded, store.Failed, store.Canceled} {
		m.byState[state] = m.results.WithLabelValues(state.String())
	}
	m.handler = promhttp.HandlerFor(reg, promhttp.HandlerOpts{})
	return m
}

func (m *metrics) attempt(r dispatch.Report) {
	m.byClass[r.Answer.Class].Inc()
	m.byState[r.State].Inc()
	m.duration.Observe(r.Answer.Duration.Seconds())
	if r.State == store.Succeeded {
		m.latency.Observe(r.Latency.Seconds())
	}
}

func (m *metrics) reject(source, reason string) { m.rejected.WithLabelValues(source, reason).Inc() }

// collect adds what is counted only when somebody looks.
func (m *metrics) collect(s *service) {
	m.registry.MustRegister(&backlogs{s: s})
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "handover", Name: "attempts_in_flight", Help: "Attempts under way in this process.",
	}, func() float64 { n, _ := s.dispatcher.Busy(); return float64(n) }))
}

// backlogs shows what waits at each stage of the line. Counting costs the
// database something and /metrics is open, so it is done every few seconds.
type backlogs struct {
	s *service

	mu   sync.Mutex
	at   time.Time
	last []store.Backlog
}

const countEvery = 2 * time.Second

func (b *backlogs) count() ([]store.Backlog, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if time.Since(b.at) < countEvery {
		return b.last, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	all, err := b.s.store.Backlogs(ctx)
	if err == nil {
		b.at, b.last = time.Now(), all
	}
	return all, err
}

var (
	backlogCount = prometheus.NewDesc("handover_backlog", "What waits at a stage, counted up to 100,000.", []string{"stage"}, nil)
	backlogAge   = prometheus.NewDesc("handover_backlog_oldest_seconds", "Age of the oldest that waits at a stage.", []string{"stage"}, nil)
)

func (b *backlogs) Describe(ch chan<- *prometheus.Desc) {
	ch <- backlogCount
	ch <- backlogAge
}

func (b *backlogs) Collect(ch chan<- prometheus.Metric) {
	all, err := b.count()
	if err != nil {
		b.s.Log.Warn("could not count backlogs", "error", err)
		return
	}
	now := b.s.Now()
	for _, stage := range all {
		age := 0.0
		if !stage.Oldest.IsZero() {
			age = now.Sub(stage.Oldest).Seconds()
		}
		ch <- prometheus.MustNewConstMetric(backlogCount, prometheus.GaugeValue, float64(stage.Count), stage.Stage)
		ch <- prometheus.MustNewConstMetric(backlogAge, prometheus.GaugeValue, age, stage.Stage)
	}
}
