package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/spf13/cobra"

	"github.com/wattle-mesh/wattle/internal/api"
	"github.com/wattle-mesh/wattle/registry"
)

// change is one thing that changed in the catalog: a line of wattle catalog list -watch.
type change struct {
	Time     time.Time `json:"time"`
	Service  string    `json:"service"`
	Endpoint string    `json:"endpoint,omitempty"` // none: it is about the service
	Change   string    `json:"change"`             // "added", "removed", or what of it changed: "health", "weight", ...
	From     string    `json:"from,omitempty"`
	To       string    `json:"to,omitempty"`
	Why      string    `json:"why,omitempty"`
}

func (c change) String() string {
	what := c.Change
	if c.From != "" || c.To != "" {
		what += fmt.Sprintf(": %s -> %s", dash(c.From), dash(c.To))
	}
	if c.Why != "" {
		what += fmt.Sprintf(" (%s)", c.Why)
	}
	return strings.Join(slices.DeleteFunc([]string{c.Time.Local().Format("15:04:05.000"), c.Service, c.Endpoint, what}, func(s string) bool { return s == "" }), "  ")
}

// catalogWatch prints what changes. What it knows outlives a connection, so that nothing is missed or told twice.
type catalogWatch struct {
	out, err io.Writer
	source   string // only endpoints that this registry names; empty: all
	asJSON   bool

	known  map[registry.Name]*api.DescribedService
	seen   map[registry.Name]bool // in this connection, until it is synced
	synced bool                   // once
	lost   bool                   // the connection is
}

// watchCatalog prints what changes until ctx is done. It fails if the server cannot be reached at first, or refuses; later
// it tries again.
func watchCatalog(cmd *cobra.Command, c *api.Client, query url.Values, source string, asJSON bool) error {
	w := &catalogWatch{out: cmd.OutOrStdout(), err: cmd.ErrOrStderr(), source: source, asJSON: asJSON, known: map[registry.Name]*api.DescribedService{}}
	pauses := backoff.NewExponentialBackOff()
	pauses.InitialInterval, pauses.MaxInterval = 200*time.Millisecond, 5*time.Second
	ctx := cmd.Context()
	for {
		w.seen = map[registry.Name]bool{}
		err := c.WatchCatalog(ctx, query, w.take)
		if ctx.Err() != nil {
			return nil // interrupted
		}
		if said, ok := errors.AsType[*api.Error](err); !w.synced || ok && said.Status != http.StatusServiceUnavailable || errors.Is(err, errOutput) {
			return err
		}
		if w.seen == nil { // it had worked
			pauses.Reset()
		}
		if !w.lost {
			w.lost = true
			fmt.Fprintf(w.err, "wattle: the connection is lost, trying again: %v\n", err)
		}
		if !pause(ctx, pauses.NextBackOff()) {
			return nil
		}
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// errOutput is that nobody takes what is printed.
var errOutput = errors.New("write")

// take takes one event in.
func (w *catalogWatch) take(e api.CatalogEvent) error {
	if w.lost {
		w.lost = false
		fmt.Fprintln(w.err, "wattle: connected again")
	}
	switch {
	case e.Service != nil:
		return w.differ(e.Service.Name, e.Service)
	case e.Gone != nil:
		return w.differ(*e.Gone, nil)
	case e.Synced:
		return w.sync()
	}
	return nil
}

// sync ends the beginning of a connection: what it did not name is gone.
func (w *catalogWatch) sync() error {
	seen := w.seen
	w.seen, w.synced = nil, true
	for _, n := range slices.SortedFunc(maps.Keys(w.known), registry.Name.Compare) {
		if !seen[n] {
			if err := w.differ(n, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// differ prints how a service differs from what is known of it, and remembers it. now is nil if it is gone.
func (w *catalogWatch) differ(n registry.Name, now *api.DescribedService) error {
	if w.seen != nil {
		w.seen[n] = true
	}
	was := w.known[n]
	if now == nil {
		delete(w.known, n)
	} else {
		if w.source != "" {
			now.Endpoints = slices.DeleteFunc(now.Endpoints, func(e api.DescribedEndpoint) bool { return !slices.Contains(e.Sources, w.source) })
			if len(now.Endpoints) == 0 && !slices.Contains(now.Sources, w.source) {
				return w.differ(n, nil)
			}
		}
		w.known[n] = now
	}
	if !w.synced {
		return nil
	}
	for _, c := range changesOf(n, was, now) {
		c.Time = time.Now()
		if err := w.print(c); err != nil {
			return fmt.Errorf("%w: %w", errOutput, err)
		}
	}
	return nil
}

func (w *catalogWatch) print(c change) error {
	if w.asJSON {
		e := json.NewEncoder(w.out)
		e.SetEscapeHTML(false)
		return e.Encode(c)
	}
	_, err := fmt.Fprintln(w.out, c)
	return err
}

// changesOf lists what differs between two descriptions of a service; nil is one that is not there.
func changesOf(n registry.Name, was, now *api.DescribedService) []change {
	var out []change
	switch {
	case was == nil && now == nil:
		return nil
	case was == nil:
		out = append(out, change{Change: "added", Why: "by " + strings.Join(now.Sources, ", ")})
		was = &api.DescribedService{Ports: now.Ports, Sources: now.Sources, HealthyIf: now.HealthyIf}
	case now == nil:
		out = append(out, change{Change: "removed"})
		now = &api.DescribedService{Ports: was.Ports, Sources: was.Sources, HealthyIf: was.HealthyIf}
	}
	differ := func(endpoint, what, from, to, why string) {
		if from != to {
			out = append(out, change{Endpoint: endpoint, Change: what, From: from, To: to, Why: why})
		}
	}
	differ("", "ports", ports(was.Ports), ports(now.Ports), "")
	differ("", "sources", strings.Join(was.Sources, ","), strings.Join(now.Sources, ","), "")
	differ("", "healthy_if", string(was.HealthyIf), string(now.HealthyIf), "")
	before, keys := map[endpointKey]api.DescribedEndpoint{}, keysOf(was.Endpoints)
	for i, e := range was.Endpoints {
		before[keys[i]] = e
	}
	for i, key := range keysOf(now.Endpoints) {
		e := now.Endpoints[i]
		old, ok := before[key]
		if delete(before, key); !ok {
			out = append(out, change{Endpoint: place(e), Change: "added", To: string(e.Health) + ", " + string(e.Path), Why: "by " + strings.Join(e.Sources, ", ")})
			old = e
		}
		differEndpoint(old, e, differ)
	}
	for i, e := range was.Endpoints {
		if _, gone := before[keys[i]]; gone {
			out = append(out, change{Endpoint: place(e), Change: "removed"})
		}
	}
	for i := range out {
		out[i].Service = n.String()
	}
	return out
}

// endpointKey tells endpoints of one service apart. Several workloads may share an address and port of their host: then
// they are told apart by their order. An endpoint that becomes a workload's stays the same.
type endpointKey struct {
	place       string
	servicePort uint16
	nth         int
}

func keysOf(all []api.DescribedEndpoint) []endpointKey {
	out, seen := make([]endpointKey, len(all)), map[endpointKey]int{}
	for i, e := range all {
		out[i] = endpointKey{place: place(e), servicePort: e.ServicePort}
		nth := seen[out[i]]
		seen[out[i]]++
		out[i].nth = nth
	}
	return out
}

func differEndpoint(was, now api.DescribedEndpoint, differ func(endpoint, what, from, to, why string)) {
	at := place(now)
	differ(at, "health", string(was.Health), string(now.Health), now.Reason)
	if was.Health == now.Health {
		differ(at, "reason", was.Reason, now.Reason, "")
	}
	differ(at, "path", string(was.Path), string(now.Path), now.Why)
	if was.Path == now.Path {
		differ(at, "why", was.Why, now.Why, "")
	}
	differ(at, "weight", fmt.Sprint(was.Weight), fmt.Sprint(now.Weight), "")
	differ(at, "priority", priorityText(was.Priority), priorityText(now.Priority), "")
	differ(at, "locality", location(was.Locality), location(now.Locality), "")
	differ(at, "labels", labels(was.Meta), labels(now.Meta), "")
	differ(at, "sources", strings.Join(was.Sources, ","), strings.Join(now.Sources, ","), "")
	from, _ := held(was)
	to, why := held(now)
	differ(at, "held", from, to, why)
}

// held says who holds an endpoint, and why.
func held(e api.DescribedEndpoint) (by, why string) {
	if e.Held == nil {
		return "no", ""
	}
	return cmp.Or(e.Held.Registry, "yes"), e.Held.Reason
}
