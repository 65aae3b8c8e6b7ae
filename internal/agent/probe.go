package agent

import (
	"strings"
	"time"

	"github.com/wattle-mesh/wattle/internal/mesh/planpb"
	"github.com/wattle-mesh/wattle/internal/probe"
)

// The least that a server may ask for, whatever the plan says.
const (
	minInterval    = 100 * time.Millisecond
	defaultTimeout = 2 * time.Second
)

// probes lists the checks of a workload. One of a port that the workload does not have is left out.
func probes(w *planpb.Workload) []probe.Probe {
	var out []probe.Probe
	for _, c := range w.GetChecks() {
		for _, port := range w.GetPorts() {
			if port.GetNumber() != c.GetPort() {
				continue
			}
			p := probe.Probe{
				Kind: c.GetType(), Address: port.GetLocal(), Path: c.GetPath(), Protocol: port.GetProtocol(),
				Interval: max(c.GetInterval().AsDuration(), minInterval), Timeout: c.GetTimeout().AsDuration(),
				Healthy: max(c.GetHealthyThreshold(), 1), Unhealthy: max(c.GetUnhealthyThreshold(), 1),
			}
			if p.Timeout <= 0 {
				p.Timeout = defaultTimeout
			}
			if !strings.HasPrefix(p.Path, "/") {
				p.Path = "/" + p.Path
			}
			out = append(out, p)
		}
	}
	return out
}
