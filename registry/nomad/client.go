package nomad

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/hashicorp/nomad/api"

	"github.com/wattle-mesh/wattle/registry"
)

// How a Nomad agent is asked. It refuses more than 100 connections from one address (limits.http_max_conns_per_client).
const (
	maxConns   = 60
	dialTime   = 5 * time.Second
	keepAlive  = 15 * time.Second
	maxAnswer  = 256 << 20        // bytes
	answerTime = 30 * time.Second // a read that does not block
	firstPause = 250 * time.Millisecond
	maxPause   = 120 // times the first one: 30 s
	tries      = 4   // of a read that a server refuses
	triesBusy  = 12  // of one that it puts off
)

var (
	errNoLeader = errors.New("its servers have no leader, so what they say may be old")
	errBack     = errors.New("its index went back: it was restored or made anew")
)

// client speaks to one Nomad agent. It is made anew for every run, so that certificates which were replaced count.
type client struct {
	*config
	api       *api.Client
	transport *http.Transport
	token     *registry.TokenFile
}

// dial makes a client. It reads the files of certificates, but connects to nothing yet.
func dial(c *config) (*client, error) {
	dialer := &net.Dialer{Timeout: dialTime, KeepAlive: keepAlive}
	t := &http.Transport{
		DialContext: dialer.DialContext, MaxConnsPerHost: maxConns, MaxIdleConnsPerHost: maxConns, IdleConnTimeout: time.Minute,
		TLSHandshakeTimeout: dialTime, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
	}
	address := c.address
	if c.base.Scheme == "unix" {
		address = "http://localhost"
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", c.base.Path)
		}
	}
	cl := &client{config: c, transport: t, token: &registry.TokenFile{Path: c.tokenFile}}
	if c.base.Scheme == "https" {
		if err := api.ConfigureTLS(&http.Client{Transport: t}, &api.TLSConfig{
			CACert: c.tls.CAFile, ClientCert: c.tls.CertFile, ClientKey: c.tls.KeyFile, TLSServerName: cmp.Or(c.tls.ServerName, c.base.Hostname()),
		}); err != nil {
			return nil, fmt.Errorf("tls: %w", err)
		}
	}
	var err error
	cl.api, err = api.NewClient(&api.Config{Address: address, Region: c.region, HttpClient: &http.Client{Transport: cl}})
	return cl, err
}

// RoundTrip implements http.RoundTripper: it adds the token, and bounds the answer.
func (c *client) RoundTrip(req *http.Request) (*http.Response, error) {
	secret, err := c.token.Current()
	if err != nil {
		return nil, err
	}
	req = req.Clone(req.Context())
	req.Header.Del("X-Nomad-Token")
	if secret != "" {
		req.Header.Set("X-Nomad-Token", secret)
	}
	res, err := c.transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode == http.StatusForbidden || res.StatusCode == http.StatusUnauthorized {
		c.token.Refused()
	}
	if req.URL.Path != events { // which has no end
		res.Body = registry.AtMost(res.Body, maxAnswer)
	}
	return res, nil
}

func (c *client) close() { c.transport.CloseIdleConnections() }

// question is what is asked of the API.
type question struct {
	path      string
	namespace string // empty: none is sent
	params    map[string]string
}

// pauses makes the pauses between tries.
func (c *config) pauses() *backoff.ExponentialBackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval = c.pause, maxPause*c.pause
	return b
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// once asks for the state as the leader knows it. It tries again when a server refuses.
func (c *client) once(ctx context.Context, q question, out any) (index uint64, err error) {
	pauses := c.pauses()
	for try := 1; ; try++ {
		index, err = c.ask(ctx, q, &api.QueryOptions{}, answerTime, out)
		if err == nil || !again(err, try) {
			return index, err
		}
		if err := sleep(ctx, pauses.NextBackOff()); err != nil {
			return 0, err
		}
	}
}

// next waits until the state has changed since index, or some time has passed.
func (c *client) next(ctx context.Context, q question, index uint64, out any) (uint64, error) {
	wait := time.Duration(float64(c.wait) * (0.8 + 0.2*rand.Float64())) // all were asked at once: let them not return at once
	return c.ask(ctx, q, &api.QueryOptions{WaitIndex: index, WaitTime: wait}, wait+wait/16+answerTime, out)
}

// ask asks once. The index is 1 or more.
func (c *client) ask(ctx context.Context, q question, o *api.QueryOptions, within time.Duration, out any) (uint64, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, within, fmt.Errorf("no answer within %s", within.Round(time.Second)))
	defer cancel()
	o.Namespace, o.Params = q.namespace, q.params
	meta, err := c.api.Raw().Query(q.path, out, o.WithContext(ctx))
	if err != nil {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			err = context.Cause(ctx)
		}
		return 0, fmt.Errorf("%s: %w", q.path, c.explain(err))
	}
	if !meta.KnownLeader {
		return 0, fmt.Errorf("%s: %w", q.path, errNoLeader)
	}
	return max(meta.LastIndex, 1), nil
}

// status returns the HTTP status of an answer that was none, 0 if there was no answer.
func status(err error) int {
	var r api.UnexpectedResponseError
	if errors.As(err, &r) {
		return r.StatusCode()
	}
	return 0
}

// again reports whether it is worth it to ask this again after an error: only a server that answers is asked again, all
// else is the end of the run.
func again(err error, try int) bool {
	switch code := status(err); {
	case errors.Is(err, errNoLeader):
		return try < tries
	case code == http.StatusTooManyRequests || code == http.StatusServiceUnavailable:
		return try < triesBusy
	case code >= http.StatusInternalServerError:
		return try < tries
	}
	return false
}

// explain adds the remedy.
func (c *client) explain(err error) error {
	switch status(err) {
	case http.StatusForbidden, http.StatusUnauthorized:
		const rights = `node { policy = "read" } and, for the namespaces, policy = "read"`
		switch {
		case c.tokenFile == "":
			return fmt.Errorf("%w; set token_file to a file with a token with %s", err, rights)
		case c.hasIdentity():
			return fmt.Errorf("%w; %s holds a workload identity: attach an ACL policy with %s to its job (nomad acl policy apply -job), whose allocation has to be running", err, c.tokenFile, rights)
		}
		return fmt.Errorf("%w; put a token with %s into %s", err, rights, c.tokenFile)
	}
	return err
}

// hasIdentity reports whether the token is a workload identity: a JWT, and not the id of a token.
func (c *client) hasIdentity() bool {
	secret, err := c.token.Current()
	return err == nil && strings.Count(secret, ".") == 2
}
