package agent

import (
	"cmp"
	"errors"
	"maps"
	"slices"

	"github.com/wattle-mesh/wattle/internal/xds"
	"github.com/wattle-mesh/wattle/translator"
)

// scopeName is the one scope of a local xDS server.
const scopeName = "all"

// table is what one proxy has been sent by the server and what its Envoy is served: the same, with the secrets
// added that are made here, and without the inbound filter chains whose secret is missing. Only one goroutine may
// use it.
type table struct {
	proxies  []string // of the local server; each has everything
	received map[translator.Key]*translator.Resource
	served   map[translator.Key]*translator.Resource
	inbound  map[string]*inbound // listeners that take secrets of this host, by name
	secrets  map[string]*translator.Resource
	pins     pins // what is served otherwise than it was received
	away     turnedAway
	pipes    map[string]string // paths of listeners at unix sockets, by name
	// barredPipes are those of pipes at which something is that no Envoy may replace. They are not served.
	barredPipes map[string]string
	known       bool // the local server was told of the proxy
}

func newTable(proxies []string) *table {
	return &table{
		proxies:  proxies,
		received: map[translator.Key]*translator.Resource{},
		served:   map[translator.Key]*translator.Resource{},
		inbound:  map[string]*inbound{},
		pipes:    map[string]string{}, barredPipes: map[string]string{},
	}
}

// version returns the version of a resource, the server's if it comes from there; empty: there is none.
func (t *table) version(k translator.Key) string {
	r := cmp.Or(t.received[k], t.served[k])
	if r == nil {
		return ""
	}
	return r.Version
}

// receive takes in a response of the server and returns what it changes for Envoy. An error says which resources
// could not be used; all others are in.
func (t *table) receive(resp *xds.Response) (translator.Changes, error) {
	var errs []error
	d := t.begin()
	for _, r := range resp.Resources {
		t.received[r.Key] = r
		if err := t.serve(d, r.Key); err != nil {
			errs = append(errs, err) // what is served stays
		}
	}
	for _, name := range resp.Removed {
		key := translator.Key{Type: resp.Type, Name: name}
		delete(t.received, key)
		if err := t.serve(d, key); err != nil {
			errs = append(errs, err)
		}
	}
	return d.changes(), errors.Join(errs...)
}

// pin has other versions served than those that were received, until it is called again; nil: as received.
func (t *table) pin(to pins) (translator.Changes, error) {
	var errs []error
	d := t.begin()
	was := t.pins
	t.pins = to
	for _, some := range []pins{was, to} {
		for k := range some {
			if err := t.serve(d, k); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return d.changes(), errors.Join(errs...)
}

// wanted returns what is to be served of a resource that the server has sent: nil: nothing.
func (t *table) wanted(k translator.Key) *translator.Resource {
	if p, ok := t.pins[k]; ok {
		return p.good
	}
	return t.received[k]
}

// state is all that is to be served but secrets.
func (t *table) state() snapshot {
	out := snapshot{}
	for k, r := range t.received {
		if _, pinned := t.pins[k]; !pinned {
			out[k] = r
		}
	}
	for k, p := range t.pins {
		if p.good != nil {
			out[k] = p.good
		}
	}
	return out
}

// serve brings what is served of a resource to what is wanted, a listener as far as its secrets are there.
func (t *table) serve(d *difference, k translator.Key) error {
	r := t.wanted(k)
	if k == prefetchKey && r != nil {
		part, err := prefetching(r, t.has)
		if err != nil {
			return err
		}
		r = part
	}
	if k.Type != translator.Listener {
		if r == nil || k.Type == translator.Cluster && t.away.clusters[k.Name] {
			d.drop(k)
		} else {
			d.put(r)
		}
		return nil
	}
	if r == nil {
		delete(t.inbound, k.Name)
		delete(t.pipes, k.Name)
		delete(t.barredPipes, k.Name)
		d.drop(k)
		return nil
	}
	if err := t.safePipe(r); err != nil {
		d.drop(k)
		return err
	}
	in, err := readInbound(r)
	if err != nil {
		return err
	}
	delete(t.inbound, r.Name)
	if in != nil {
		t.inbound[r.Name] = in
	}
	return t.serveListener(d, r, in)
}

// setSecrets replaces the secrets, by name. Listeners whose chains wait for one get them, or lose them.
func (t *table) setSecrets(secrets map[string]*translator.Resource) (translator.Changes, error) {
	var errs []error
	d := t.begin()
	for name, old := range t.secrets {
		if secrets[name] == nil {
			d.drop(old.Key)
		}
	}
	for _, s := range secrets {
		d.put(s)
	}
	t.secrets = secrets
	if t.wanted(prefetchKey) != nil {
		errs = append(errs, t.serve(d, prefetchKey))
	}
	for name, in := range t.inbound {
		r := t.wanted(translator.Key{Type: translator.Listener, Name: name})
		if err := t.serveListener(d, r, in); err != nil {
			errs = append(errs, err)
		}
	}
	return d.changes(), errors.Join(errs...)
}

// has reports whether there is a secret.
func (t *table) has(secret string) bool { return t.secrets[secret] != nil }

// turnAway closes ways to workloads, and opens those that were closed and are not any more.
func (t *table) turnAway(now turnedAway) (translator.Changes, error) {
	old := t.away
	if old.equal(now) {
		return translator.Changes{}, nil
	}
	t.away = now
	d := t.begin()
	var errs []error
	for _, some := range []map[string]bool{old.clusters, now.clusters} {
		for name := range some {
			errs = append(errs, t.serve(d, translator.Key{Type: translator.Cluster, Name: name}))
		}
	}
	for name, in := range t.inbound {
		errs = append(errs, t.serveListener(d, t.wanted(translator.Key{Type: translator.Listener, Name: name}), in))
	}
	return d.changes(), errors.Join(errs...)
}

// serveListener serves a listener as far as its secrets are there. in is nil if it needs none.
func (t *table) serveListener(d *difference, r *translator.Resource, in *inbound) error {
	if in != nil {
		part, err := in.with(t.has, t.away.chains)
		if err != nil {
			return err
		}
		if part == nil {
			d.drop(r.Key)
			return nil
		}
		r = part
	}
	d.put(r)
	return nil
}

// difference collects what changes between two states of what is served.
type difference struct {
	t       *table
	c       translator.Changes
	members bool // a key came or went
}

func (t *table) begin() *difference { return &difference{t: t} }

func (d *difference) put(r *translator.Resource) {
	old := d.t.served[r.Key]
	if old != nil && old.Version == r.Version {
		return
	}
	d.members = d.members || old == nil
	d.t.served[r.Key] = r
	d.c.Resources = append(d.c.Resources, r)
}

func (d *difference) drop(k translator.Key) {
	if d.t.served[k] == nil {
		return
	}
	d.members = true
	delete(d.t.served, k)
	d.c.Removed = append(d.c.Removed, k)
}

func (d *difference) changes() translator.Changes {
	t := d.t
	if d.members || !t.known {
		keys := slices.SortedFunc(maps.Keys(t.served), compareKeys)
		d.c.Scopes = []*translator.Scope{{Name: scopeName, Keys: keys}}
	}
	if !t.known {
		t.known = true
		for _, id := range t.proxies {
			d.c.Proxies = append(d.c.Proxies, &translator.Proxy{ID: id, Scopes: []string{scopeName}})
		}
	}
	slices.SortFunc(d.c.Resources, func(a, b *translator.Resource) int { return compareKeys(a.Key, b.Key) })
	slices.SortFunc(d.c.Removed, compareKeys)
	return d.c
}

func compareKeys(a, b translator.Key) int {
	return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Variant, b.Variant))
}
