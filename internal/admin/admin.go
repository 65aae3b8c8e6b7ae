// Package admin asks a running Envoy by the interface on its unix socket: how it is, who is connected, and to drain.
package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"
)

// limit is how long an Envoy may take for an answer.
const limit = time.Second

// Live is the State of an Envoy that serves: it has had all its clusters and listeners.
const Live = "LIVE"

// Client talks to the Envoy behind one socket; after a hot restart that is another one. Safe for concurrent use.
type Client struct{ http *http.Client }

// New makes a Client. Nothing is connected until it is asked something, and nothing stays connected.
func New(socket string) *Client {
	return &Client{&http.Client{Timeout: limit, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}}
}

// Server is what an Envoy says of itself (envoy.admin.v3.ServerInfo).
type Server struct {
	Version string `json:"version"` // "<commit>/1.40.0/Clean/RELEASE/BoringSSL"
	State   string `json:"state"`   // Live, PRE_INITIALIZING, INITIALIZING, DRAINING
	Options struct {
		Epoch uint32 `json:"restart_epoch"` // of hot restarts, from 0
	} `json:"command_line_options"`
}

// Release returns the number of the Envoy's release: "1.40.0".
func (s Server) Release() string {
	if parts := strings.Split(s.Version, "/"); len(parts) > 1 {
		return parts[1]
	}
	return s.Version
}

// Server asks how the Envoy is.
func (c *Client) Server(ctx context.Context) (s Server, err error) {
	text, err := c.ask(ctx, http.MethodGet, "/server_info")
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	return s, err
}

// HotRestartVersion returns which Envoys can take over from this one.
func (c *Client) HotRestartVersion(ctx context.Context) (string, error) {
	text, err := c.ask(ctx, http.MethodGet, "/hot_restart_version")
	return strings.TrimSpace(string(text)), err
}

// Connections counts those that others have to the Envoy's listeners.
func (c *Client) Connections(ctx context.Context) (int, error) {
	return c.sum(ctx, `^listener\..*downstream_cx_active$`)
}

// Active counts what is under way: requests, and connections that carry no requests. An idle HTTP connection is neither.
func (c *Client) Active(ctx context.Context) (int, error) {
	return c.sum(ctx, `^(http\..*downstream_rq_active|tcp\..*downstream_cx_active)$`)
}

// Under counts, for each of these stat prefixes of listeners' filters, what is under way: requests of its HTTP connection
// manager, and connections of its TCP proxy. What Envoy knows nothing of has none.
func (c *Client) Under(ctx context.Context, prefixes []string) (map[string]int, error) {
	quoted := make([]string, len(prefixes))
	for i, p := range prefixes {
		quoted[i] = regexp.QuoteMeta(statName(p))
	}
	all, err := c.gauges(ctx, `^(http\.(`+strings.Join(quoted, "|")+`)\.downstream_rq_active|tcp\.(`+strings.Join(quoted, "|")+`)\.downstream_cx_active)$`)
	if err != nil {
		return nil, err
	}
	out := map[string]int{}
	for _, p := range prefixes {
		out[p] = all["http."+statName(p)+".downstream_rq_active"] + all["tcp."+statName(p)+".downstream_cx_active"]
	}
	return out, nil
}

// statName is how Envoy writes a name into that of a stat (Utility::sanitizeStatsName).
func statName(s string) string {
	return strings.NewReplacer("://", "_", ":/", "_", ":", "_").Replace(s)
}

// sum adds up the gauges whose names match, but for the admin interface's own.
func (c *Client) sum(ctx context.Context, names string) (n int, err error) {
	all, err := c.gauges(ctx, names)
	for name, value := range all {
		if !strings.HasPrefix(name, "listener.admin.") && !strings.HasPrefix(name, "http.admin.") {
			n += value
		}
	}
	return n, err
}

// gauges returns those whose names match.
func (c *Client) gauges(ctx context.Context, names string) (map[string]int, error) {
	text, err := c.ask(ctx, http.MethodGet, "/stats?format=json&filter="+url.QueryEscape(names))
	if err != nil {
		return nil, err
	}
	var answer struct {
		Stats []struct {
			Name  string `json:"name"`
			Value int    `json:"value"`
		} `json:"stats"`
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return nil, err
	}
	out := map[string]int{}
	for _, s := range answer.Stats {
		if !strings.Contains(s.Name, ".worker_") { // counted by its listener, too
			out[s.Name] += s.Value
		}
	}
	return out, nil
}

// Drain has connections end: HTTP ones are told to go, new ones are taken until Close.
func (c *Client) Drain(ctx context.Context) error { return c.post(ctx, "/drain_listeners?graceful") }

// Close ends all listeners for good.
func (c *Client) Close(ctx context.Context) error { return c.post(ctx, "/drain_listeners") }

func (c *Client) post(ctx context.Context, path string) error {
	_, err := c.ask(ctx, http.MethodPost, path)
	return err
}

func (c *Client) ask(ctx context.Context, method, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://envoy"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", path, resp.Status)
	}
	return text, err
}

// FailHealth has the Envoy answer health checks with no and HTTP connections end, until PassHealth.
func (c *Client) FailHealth(ctx context.Context) error { return c.post(ctx, "/healthcheck/fail") }

// PassHealth undoes FailHealth.
func (c *Client) PassHealth(ctx context.Context) error { return c.post(ctx, "/healthcheck/ok") }

// Stat is a counter or a gauge.
type Stat struct {
	Name  string `json:"name"` // "http.in/default/web_8080.downstream_rq_total"
	Value uint64 `json:"value"`
}

// Stats returns the counters and gauges that were used and whose names match a regular expression; empty: all.
func (c *Client) Stats(ctx context.Context, names string) ([]Stat, error) {
	path := "/stats?format=json&usedonly"
	if names != "" {
		path += "&filter=" + url.QueryEscape(names)
	}
	text, err := c.ask(ctx, http.MethodGet, path)
	if err != nil {
		return nil, err
	}
	var answer struct {
		Stats []struct {
			Name  string          `json:"name"`
			Value json.RawMessage `json:"value"`
		} `json:"stats"`
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return nil, err
	}
	var out []Stat
	for _, s := range answer.Stats {
		var n uint64
		if s.Name != "" && json.Unmarshal(s.Value, &n) == nil { // histograms have no name, texts no number
			out = append(out, Stat{s.Name, n})
		}
	}
	return out, nil
}
