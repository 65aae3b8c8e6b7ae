package xds

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/wattle-mesh/wattle/translator"
)

// metrics are the server's collectors. Their only label is the type.
type metrics struct {
	streams   prometheus.Gauge
	converged prometheus.Histogram
	types     [translator.NumTypes]struct {
		responses, resources, bytes, acks, nacks prometheus.Counter
	}
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		streams: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "wattle_xds_streams", Help: "Proxies that are connected."}),
		converged: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "wattle_xds_convergence_seconds", Help: "Time from a change until every proxy that it touches has answered it.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14)}),
	}
	if reg != nil {
		reg.MustRegister(m.streams, m.converged)
	}
	vec := func(name, help string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"type"})
		if reg != nil {
			reg.MustRegister(v)
		}
		return v
	}
	responses := vec("wattle_xds_responses_total", "Responses sent.")
	resources := vec("wattle_xds_resources_total", "Resources sent.")
	bytes := vec("wattle_xds_sent_bytes_total", "Bytes of the responses sent.")
	acks := vec("wattle_xds_acks_total", "Responses that proxies acknowledged.")
	nacks := vec("wattle_xds_nacks_total", "Responses that proxies refused.")
	for i := range m.types {
		t, name := &m.types[i], translator.Type(i).String()
		t.responses, t.resources, t.bytes = responses.WithLabelValues(name), resources.WithLabelValues(name), bytes.WithLabelValues(name)
		t.acks, t.nacks = acks.WithLabelValues(name), nacks.WithLabelValues(name)
	}
	return m
}

// quarantined counts the proxies of which an agent has something in quarantine.
func (s *Server) quarantined() float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0.0
	for _, p := range s.proxies {
		if p.stream == nil {
			continue
		}
		for i := range p.stream.subs {
			if nack := p.stream.subs[i].nack; nack != nil && strings.HasPrefix(nack.Message, Quarantined) {
				n++
				break
			}
		}
	}
	return n
}

func (m *metrics) sent(msg *message) {
	t := &m.types[msg.typ]
	t.responses.Inc()
	t.resources.Add(float64(len(msg.resources)))
	t.bytes.Add(float64(msg.size))
}

func (m *metrics) answered(typ translator.Type, refused bool) {
	if refused {
		m.types[typ].nacks.Inc()
		return
	}
	m.types[typ].acks.Inc()
}
