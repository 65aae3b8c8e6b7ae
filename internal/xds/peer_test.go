package xds

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/proto"

	"github.com/wattle-mesh/wattle/translator"
)

// authorizeByID trusts the node's claim.
func authorizeByID(_ context.Context, n *corev3.Node) (string, error) { return n.Id, nil }

// peer is a client without a network: it drives a stream by the server's own entry points and holds what it was
// given. With named it is like Envoy: clusters and listeners by wildcard, the endpoints of the clusters it holds and
// the routes "r-X" of the listeners "l-X" it holds by name. Else it takes all types by wildcard, as agents do.
type peer struct {
	srv   *Server
	id    string
	named bool
	st    *stream

	mu    sync.Mutex
	inbox []*message // sent and not yet delivered

	held    [translator.NumTypes]map[string]string
	warm    map[string]bool // clusters whose endpoints came since
	asked   [translator.NumTypes]map[string]bool
	on      [translator.NumTypes]bool
	waiting [translator.NumTypes]*message // delivered, not yet answered
	refused [translator.NumTypes]bool
	started bool // a response of clusters came on this stream
	got     int  // resources received on this stream
	removed int
}

func newPeer(srv *Server, id string, named bool) *peer {
	p := &peer{srv: srv, id: id, named: named, warm: map[string]bool{}}
	for t := range p.held {
		p.held[t] = map[string]string{}
	}
	return p
}

func (p *peer) byName(t translator.Type) bool {
	return p.named && (t == translator.Endpoint || t == translator.Route)
}

// connect opens a stream and asks for all types, or resumes with what it holds.
func (p *peer) connect() {
	p.mu.Lock()
	p.inbox = nil
	p.mu.Unlock()
	p.st = &stream{srv: p.srv, send: p.receive, since: now()}
	p.waiting = [translator.NumTypes]*message{}
	p.on = [translator.NumTypes]bool{}
	p.refused = [translator.NumTypes]bool{}
	p.got, p.removed, p.started = 0, 0, false
	node, _ := proto.Marshal(&corev3.Node{Id: p.id})
	r := &request{}
	_ = r.setNode(node)
	if err := p.srv.open(context.Background(), p.st, r); err != nil {
		panic(err)
	}
	for t := range p.asked {
		p.asked[t] = map[string]bool{}
	}
	order := []translator.Type{translator.HostPlan, translator.Secret, translator.Cluster}
	if !p.named {
		order = append(order, translator.Listener, translator.Endpoint, translator.Route)
	} else if len(p.held[translator.Listener]) > 0 {
		order = append(order, translator.Listener)
	}
	for _, t := range order {
		p.begin(t)
	}
	p.ask()
}

// GoString keeps what rapid prints short.
func (p *peer) GoString() string { return p.id }

func (p *peer) begin(t translator.Type, names ...string) {
	p.on[t] = true
	if !p.byName(t) {
		names = []string{"*"}
	}
	p.handle(&request{typ: t, subscribe: names, initial: maps.Clone(p.held[t])})
}

func (p *peer) handle(r *request) {
	r.known = true
	if err := p.srv.handle(p.st, r); err != nil {
		panic(fmt.Sprint("handle: ", err))
	}
}

func (p *peer) disconnect() { p.srv.end(p.st) }

// receive is the stream's send.
func (p *peer) receive(m any) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f, ok := m.(farewell); ok {
		return fmt.Errorf("%s", string(f))
	}
	p.inbox = append(p.inbox, m.(*message))
	return nil
}

// ask subscribes by name to what the held clusters and listeners need, and unsubscribes from the rest.
func (p *peer) ask() {
	if !p.named {
		return
	}
	if !p.on[translator.Listener] && p.started && p.allWarm() {
		p.begin(translator.Listener) // as Envoy does once its clusters are initialized
	}
	for _, pair := range [...]struct {
		of, to translator.Type
		name   func(string) string
	}{
		{translator.Cluster, translator.Endpoint, func(n string) string { return n }},
		{translator.Listener, translator.Route, func(n string) string { return "r" + n[1:] }},
	} {
		want := map[string]bool{}
		for n := range p.held[pair.of] {
			want[pair.name(n)] = true
		}
		var add, gone []string
		for n := range want {
			if !p.asked[pair.to][n] {
				add = append(add, n)
			}
		}
		for n := range p.asked[pair.to] {
			if !want[n] {
				gone = append(gone, n)
				delete(p.held[pair.to], n)
			}
		}
		p.asked[pair.to] = want
		if len(add)+len(gone) == 0 {
			continue
		}
		slices.Sort(add)
		if !p.on[pair.to] {
			p.begin(pair.to, add...)
			continue
		}
		p.handle(&request{typ: pair.to, subscribe: add, unsubscribe: gone})
	}
}

func (p *peer) allWarm() bool {
	for n := range p.held[translator.Cluster] {
		if !p.warm[n] {
			return false
		}
	}
	return true
}

// deliver takes the next message in, or refuses it whole, and leaves the answer for later. It says what is wrong.
func (p *peer) deliver(accept bool) (problem string) {
	p.mu.Lock()
	if len(p.inbox) == 0 {
		p.mu.Unlock()
		return ""
	}
	m := p.inbox[0]
	p.inbox = p.inbox[1:]
	p.mu.Unlock()
	if p.waiting[m.typ] != nil {
		return fmt.Sprintf("two responses of %s in flight", m.typ)
	}
	p.waiting[m.typ], p.refused[m.typ] = m, !accept
	if !accept {
		return ""
	}
	p.started = p.started || m.typ == translator.Cluster
	p.got += len(m.resources)
	p.removed += len(m.removed)
	for _, r := range m.resources {
		if p.byName(m.typ) && !p.asked[m.typ][r.Name] {
			continue // unsubscribed meanwhile
		}
		if m.typ == translator.Cluster && p.held[m.typ][r.Name] == "" {
			p.warm[r.Name] = false
		}
		if m.typ == translator.Endpoint {
			p.warm[r.Name] = true
		}
		p.held[m.typ][r.Name] = r.Version
	}
	for _, name := range m.removed {
		delete(p.held[m.typ], name)
		if p.named && m.typ == translator.Cluster {
			delete(p.held[translator.Endpoint], name) // Envoy drops them with the cluster
		}
		if p.named && m.typ == translator.Listener {
			delete(p.held[translator.Route], "r"+name[1:])
		}
	}
	return p.check()
}

// check says which listener or route refers to a cluster that is not there.
func (p *peer) check() string {
	for _, t := range [...]translator.Type{translator.Listener, translator.Route} {
		for name, version := range p.held[t] {
			for _, c := range references(version) {
				if _, ok := p.held[translator.Cluster][c]; !ok {
					return fmt.Sprintf("%s %s refers to cluster %s, which is not there", t, name, c)
				}
				if p.named && !p.warm[c] {
					return fmt.Sprintf("%s %s refers to cluster %s, which has no endpoints yet", t, name, c)
				}
			}
		}
	}
	return ""
}

// answer acknowledges or refuses what was delivered of type t.
func (p *peer) answer(t translator.Type) {
	m := p.waiting[t]
	if m == nil {
		return
	}
	p.waiting[t] = nil
	p.handle(&request{typ: t, answers: true, nonce: m.gen, refused: p.refused[t], reason: "no"})
}

// settle delivers and acknowledges all there is, until there is nothing more.
func (p *peer) settle(quiet func()) string {
	for {
		quiet()
		p.mu.Lock()
		n := len(p.inbox)
		p.mu.Unlock()
		busy := n > 0
		if busy {
			if problem := p.deliver(true); problem != "" {
				return problem
			}
		}
		p.ask()
		for t := range p.waiting {
			busy = busy || p.waiting[t] != nil
			p.answer(translator.Type(t))
		}
		if !busy {
			return ""
		}
	}
}
