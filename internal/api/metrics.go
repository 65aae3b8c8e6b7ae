package api

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// alarmNames are those with a count of their own; all others are "other".
var alarmNames = []string{"clock", "disk"}

// collector counts what nodes report that a person should know.
type collector struct {
	n                   *Node
	nodes, alarms, skew *prometheus.Desc
	store               *prometheus.Desc
}

// Collector makes the metrics of nodes and of the store.
func (n *Node) Collector() prometheus.Collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("wattle_api_"+name, help, labels, nil)
	}
	return &collector{n: n,
		nodes:  desc("nodes", "Nodes by whether their agents report.", "reporting"),
		alarms: desc("node_alarms", "Nodes that raise an alarm, by its name.", "alarm"),
		skew:   desc("clock_skew_max_seconds", "How far the clock of the node that is farthest off is off the server's."),
		store:  desc("store_unwritable", "1 if the server cannot write its store: changes are refused."),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.nodes, c.alarms, c.skew, c.store} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	reporting, silent, alarms, skew := c.n.o.Registrar.tally()
	gauge(c.nodes, float64(reporting), "yes")
	gauge(c.nodes, float64(silent), "no")
	other := 0
	for _, n := range alarms {
		other += n
	}
	for _, name := range alarmNames {
		gauge(c.alarms, float64(alarms[name]), name)
		other -= alarms[name]
	}
	gauge(c.alarms, float64(other), "other")
	gauge(c.skew, skew.Seconds())
	bad := 0.0
	if _, err := c.n.o.Store.Fault(); err != nil {
		bad = 1
	}
	gauge(c.store, bad)
}

// tally counts the nodes whose agents are connected and the others, and of the former the alarms by name and the worst clock.
func (r *Registrar) tally() (reporting, silent int, alarms map[string]int, skew time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	alarms = map[string]int{}
	for _, h := range r.hosts {
		if h.end == nil {
			silent++
			continue
		}
		reporting++
		skew = max(skew, h.said.ahead.Abs())
		for _, a := range h.said.alarms {
			alarms[a.Name]++
		}
	}
	return reporting, silent, alarms, skew
}
