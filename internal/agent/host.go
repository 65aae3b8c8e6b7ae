package agent

import (
	"cmp"
	"context"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc/status"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api"
	"github.com/wattle-mesh/wattle/internal/api/apipb"
	"github.com/wattle-mesh/wattle/internal/capture"
	"github.com/wattle-mesh/wattle/internal/mesh/planpb"
)

// host is what the agent says of its host to whoever asks at its socket. Safe for concurrent use.
type host struct {
	a         *Agent
	ahead     value[time.Duration] // of the server's clock
	connected value[bool]          // the server answers reports
	joined    value[joined]
}

// maxReach is how many ports the server is asked to connect to at a time: it takes five attempts at once.
const maxReach = 4

// reach has the server connect to the mesh ports of this host.
func (h *host) reach(ctx context.Context) ([]api.ReachResult, error) {
	j := h.joined.Now()
	if j.client == nil {
		return nil, &api.Error{Status: http.StatusConflict, Message: "the host has not joined a mesh yet", Remedy: "wattle agent join"}
	}
	ctx, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	out := []api.ReachResult{}
	for _, port := range h.status().MeshPorts {
		if len(out) == maxReach {
			break
		}
		r, err := j.client.Reach(ctx, &apipb.ReachRequest{Port: port})
		if err != nil {
			return nil, &api.Error{Status: http.StatusBadGateway, Message: "the server does not try: " + status.Convert(err).Message(), Remedy: "try again in a few seconds, or see the agent's log"}
		}
		out = append(out, api.ReachResult{Port: port, Address: r.GetAddress(), Error: r.GetError()})
	}
	return out, nil
}

// joined is what there is to say of a host once it has joined.
type joined struct {
	certs  *value[holdings]
	plan   *value[*planpb.HostPlan]
	client apipb.NodeClient
}

// status says how the host is now.
func (h *host) status() api.HostStatus {
	a := h.a
	out := api.HostStatus{
		Version: a.o.Version, Servers: a.o.Config.Servers, Connected: h.connected.Now(), ClockAhead: configs.Duration(h.ahead.Now()),
		PID: os.Getpid(), Time: a.o.Now().UTC(), Facts: a.facts.held.Now(),
	}
	for _, x := range a.disk.alarms.held.Now() {
		out.Alarms = append(out.Alarms, api.Alarm{Name: x.GetName(), Text: x.GetText()})
	}
	c := a.node.held.Now()
	if c == nil {
		return out
	}
	out.Node, out.TrustDomain = c.id.Name, c.id.TrustDomain
	out.Certificates = []api.HeldCertificate{{Identity: c.id.String(), NotAfter: c.cert.Leaf.NotAfter}}
	j := h.joined.Now()
	if j.certs == nil {
		return out
	}
	var held []api.HeldCertificate
	for id, x := range j.certs.Now() {
		one := api.HeldCertificate{Identity: id, Waiting: x.waiting}
		if x.leaf != nil {
			one.NotAfter = x.leaf.expires
		}
		held = append(held, one)
	}
	slices.SortFunc(held, func(a, b api.HeldCertificate) int { return cmp.Compare(a.Identity, b.Identity) })
	out.Certificates = append(out.Certificates, held...)
	plan := j.plan.Now()
	out.Planned = plan != nil
	for _, w := range plan.GetWorkloads() {
		out.MeshPorts = append(out.MeshPorts, w.GetMeshPort())
	}
	for _, p := range plan.GetProxies() {
		if _, name, ok := api.SplitProxy(p.GetId()); ok {
			out.Proxies = append(out.Proxies, name)
		}
	}
	slices.Sort(out.MeshPorts)
	out.MeshPorts = slices.Compact(out.MeshPorts)
	return out
}

// counter is a table of capture that counts: that of the kernel.
type counter interface {
	Count() (capture.Counts, error)
}

// metrics serves what Prometheus may want to know of the agent. It is found out when it is asked for, which is seldom.
func (h *host) metrics() http.Handler {
	reg := prometheus.NewRegistry()
	gauge := func(name, help string, read func() float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "wattle_agent_" + name, Help: help}, read))
	}
	flag := func(on bool) float64 {
		if on {
			return 1
		}
		return 0
	}
	gauge("connected", "1 if a server answers.", func() float64 { return flag(h.connected.Now()) })
	gauge("clock_ahead_seconds", "How far the host's clock is ahead of the server's; 0 below 2 s.", func() float64 { return h.ahead.Now().Seconds() })
	gauge("node_certificate_expiry_seconds", "Unix time at which the node certificate ends; 0: there is none.", func() float64 {
		if c := h.a.node.held.Now(); c != nil {
			return float64(c.cert.Leaf.NotAfter.Unix())
		}
		return 0
	})
	gauge("disk_unwritable", "1 if the state folder cannot be written: the agent goes on from memory.", func() float64 {
		return flag(slices.ContainsFunc(h.a.disk.alarms.held.Now(), func(a *apipb.Alarm) bool { return a.GetName() == diskAlarm }))
	})
	if c := h.a.o.Capture; c != nil {
		if table, ok := c.Table.(counter); ok {
			total := func(name, help string, read func(capture.Counts) uint64) {
				reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "wattle_agent_capture_" + name + "_total", Help: help}, func() float64 {
					n, err := table.Count()
					if err != nil {
						h.a.o.Log.Debug("the rules of capture cannot be counted", "error", err)
					}
					return float64(read(n))
				}))
			}
			total("redirected", "Connections of captured workloads that were led to their proxies, since the rules changed.", func(n capture.Counts) uint64 { return n.Redirected })
			total("refused", "Packets that began connections which the guard refused, since the rules changed.", func(n capture.Counts) uint64 { return n.Refused })
		}
	}
	gauge("alarms", "How many alarms are raised.", func() float64 { return float64(len(h.a.disk.alarms.held.Now())) })
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{})
}
