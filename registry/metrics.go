package registry

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// collector gives the sources' state to Prometheus. Its only label is the source's name, of which there are as many as
// the operator configured.
type collector struct{ a *Aggregator }

// Collector returns the Aggregator's metrics.
func (a *Aggregator) Collector() prometheus.Collector { return collector{a} }

func describe(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("wattle_registry_"+name, help, []string{"registry"}, nil)
}

// metric is one metric of a source.
type metric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	of   func(Status, time.Time) (float64, bool) // false: there is none
}

func number(n int) (float64, bool) { return float64(n), true }

func truth(b bool) (float64, bool) {
	if b {
		return 1, true
	}
	return 0, true
}

func metrics() []metric {
	gauge := func(name, help string, of func(Status, time.Time) (float64, bool)) metric {
		return metric{describe(name, help), prometheus.GaugeValue, of}
	}
	return []metric{
		gauge("up", "Whether the registry can be read.", func(s Status, _ time.Time) (float64, bool) {
			return truth(s.Synced && s.StaleSince.IsZero())
		}),
		gauge("snapshot", "Whether what is served of the registry is what it said before the server restarted.", func(s Status, _ time.Time) (float64, bool) {
			return truth(!s.Snapshot.IsZero())
		}),
		gauge("set_age_seconds", "How long ago the registry said what is served of it. One that does not change may be silent for long: see stale_seconds.", func(s Status, now time.Time) (float64, bool) {
			return now.Sub(s.LastPublish).Seconds(), !s.LastPublish.IsZero()
		}),
		gauge("stale_seconds", "For how long the registry has not been readable; 0: it is.", func(s Status, now time.Time) (float64, bool) {
			if s.StaleSince.IsZero() {
				return 0, true
			}
			return now.Sub(s.StaleSince).Seconds(), true
		}),
		gauge("services", "Services that are served of the registry.", func(s Status, _ time.Time) (float64, bool) { return number(s.Services) }),
		gauge("endpoints", "Endpoints that are served of the registry.", func(s Status, _ time.Time) (float64, bool) { return number(s.Endpoints) }),
		gauge("held_endpoints", "Endpoints that are served though the registry no longer names them.", func(s Status, _ time.Time) (float64, bool) {
			return number(countHeld(s.Held))
		}),
		{describe("restarts_total", "How often the registry was read anew after a failure."), prometheus.CounterValue,
			func(s Status, _ time.Time) (float64, bool) { return number(s.Restarts) }},
	}
}

// Describe implements prometheus.Collector.
func (c collector) Describe(out chan<- *prometheus.Desc) {
	for _, m := range metrics() {
		out <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(out chan<- prometheus.Metric) {
	now := time.Now()
	for _, s := range c.a.Status() {
		for _, m := range metrics() {
			if v, ok := m.of(s, now); ok {
				out <- prometheus.MustNewConstMetric(m.desc, m.kind, v, s.Name)
			}
		}
	}
}
