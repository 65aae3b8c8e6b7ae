// Package probe checks whether an application at an address is well: a probe in, a health that changes only after as
// many results in a row as the probe says out. Agents probe their host's workloads, servers what runs elsewhere.
package probe

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"time"
)

// maxBody is how many bytes of an answer are read.
const maxBody = 4 << 10

// Probe is one check of one place. Comparable.
type Probe struct {
	Kind               string // "http" or "tcp"
	Address            string // host:port
	Path               string // of http; begins with a slash
	Protocol           string // "http2" and "grpc" are asked over HTTP/2
	Interval, Timeout  time.Duration
	Healthy, Unhealthy uint32 // results in a row until the health changes; the first result decides at once
}

// Health is what a probe has found out.
type Health struct {
	Known   bool
	Healthy bool
	Reason  string // if it is not healthy
}

// Follow probes at its interval until ctx is done, and tells each health that is another one than before.
func (p Probe) Follow(ctx context.Context, tell func(Health)) {
	s := state{healthyAfter: p.Healthy, unhealthyAfter: p.Unhealthy}
	for {
		err := p.Try(ctx)
		if ctx.Err() != nil {
			return
		}
		if s.add(err) {
			tell(s.health)
		}
		select {
		case <-time.After(time.Duration(float64(p.Interval) * (0.95 + 0.1*rand.Float64()))):
		case <-ctx.Done():
			return
		}
	}
}

// Try checks once, on a connection of its own, so that what it finds is what a new caller would. nil is success.
func (p Probe) Try(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	var err error
	switch p.Kind {
	case "http":
		err = p.http(ctx)
	case "tcp":
		err = p.tcp(ctx)
	default:
		err = fmt.Errorf("there are no checks of type %q", p.Kind)
	}
	if ctx.Err() == context.DeadlineExceeded {
		err = fmt.Errorf("no answer within %s", p.Timeout)
	}
	if err != nil {
		return fmt.Errorf("%s check of %s: %w", p.Kind, p.where(), err)
	}
	return nil
}

func (p Probe) where() string {
	if p.Kind == "http" {
		return p.Address + p.Path
	}
	return p.Address
}

func (p Probe) tcp(ctx context.Context) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", p.Address)
	if err != nil {
		return err
	}
	return conn.Close()
}

// http succeeds with a status below 400; redirections are not followed.
func (p Probe) http(ctx context.Context) error {
	t := &http.Transport{DisableKeepAlives: true, Protocols: new(http.Protocols)}
	defer t.CloseIdleConnections()
	h2 := p.Protocol == "http2" || p.Protocol == "grpc"
	t.Protocols.SetHTTP1(!h2)
	t.Protocols.SetUnencryptedHTTP2(h2)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.Address+p.Path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "wattle")
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

// state turns the results of one check into its health. The first result decides at once; after that it takes as
// many in a row as the check says.
type state struct {
	health                       Health
	run                          uint32 // results in a row that contradict health
	healthyAfter, unhealthyAfter uint32
}

// add takes in one result and reports whether the health has changed.
func (s *state) add(err error) bool {
	success := err == nil
	if s.health.Known && s.health.Healthy == success {
		s.run = 0
		return false
	}
	s.run++
	need := s.unhealthyAfter
	if success {
		need = s.healthyAfter
	}
	if s.health.Known && s.run < need {
		return false
	}
	s.run = 0
	s.health = Health{Known: true, Healthy: success}
	if err != nil {
		s.health.Reason = err.Error()
	}
	return true
}
