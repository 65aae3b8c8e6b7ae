package agent

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/wattle-mesh/wattle/internal/mesh/planpb"
)

// probe is one kind of health check, at the local address of an application.
type probe struct {
	kind, address, path, protocol string
	interval, timeout             time.Duration
	healthy, unhealthy            uint32
}

// The least that a server may ask for, whatever the plan says.
const (
	minInterval    = 100 * time.Millisecond
	defaultTimeout = 2 * time.Second
	maxBody        = 4 << 10 // bytes of an answer that are read
)

// probes lists the checks of a workload. One of a port that the workload does not have is left out.
func probes(w *planpb.Workload) []probe {
	var out []probe
	for _, c := range w.GetChecks() {
		for _, port := range w.GetPorts() {
			if port.GetNumber() != c.GetPort() {
				continue
			}
			p := probe{
				kind: c.GetType(), address: port.GetLocal(), path: c.GetPath(), protocol: port.GetProtocol(),
				interval: max(c.GetInterval().AsDuration(), minInterval), timeout: c.GetTimeout().AsDuration(),
				healthy: max(c.GetHealthyThreshold(), 1), unhealthy: max(c.GetUnhealthyThreshold(), 1),
			}
			if p.timeout <= 0 {
				p.timeout = defaultTimeout
			}
			if !strings.HasPrefix(p.path, "/") {
				p.path = "/" + p.path
			}
			out = append(out, p)
		}
	}
	return out
}

// try checks once, on a connection of its own, so that what it finds is what a new caller would. nil is success.
func (p probe) try(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	var err error
	switch p.kind {
	case "http":
		err = p.http(ctx)
	case "tcp":
		err = p.tcp(ctx)
	default:
		err = fmt.Errorf("this agent knows no checks of type %q", p.kind)
	}
	if ctx.Err() == context.DeadlineExceeded {
		err = fmt.Errorf("no answer within %s", p.timeout)
	}
	if err != nil {
		return fmt.Errorf("%s check of %s: %w", p.kind, p.where(), err)
	}
	return nil
}

func (p probe) where() string {
	if p.kind == "http" {
		return p.address + p.path
	}
	return p.address
}

func (p probe) tcp(ctx context.Context) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", p.address)
	if err != nil {
		return err
	}
	return conn.Close()
}

// http succeeds with a status below 400; redirections are not followed.
func (p probe) http(ctx context.Context) error {
	t := &http.Transport{DisableKeepAlives: true, Protocols: new(http.Protocols)}
	defer t.CloseIdleConnections()
	h2 := p.protocol == "http2" || p.protocol == "grpc"
	t.Protocols.SetHTTP1(!h2)
	t.Protocols.SetUnencryptedHTTP2(h2)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.address+p.path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "wattle-agent")
	resp, err := t.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxBody))
	if resp.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}
