package xds

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/wattle-mesh/wattle/translator"
)

// FuzzDeltaStream reads its input as what two clients that keep to nothing do, and what the world does meanwhile.
// Whatever they ask for, in whatever order: a client is sent only what it asked for and what is in its proxy's scope
// now, in the table's version; it has one response per type to answer; what the server remembers of it stays
// bounded; and once it answers all it is sent, it holds exactly what it wants of its scope.
func FuzzDeltaStream(f *testing.F) {
	for _, seed := range seeds() {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		synctest.Test(t, func(t *testing.T) { newPlay(t, data).run() })
	})
}

// What a play's steps are. Each takes its details from the bytes that follow.
const (
	stepAsk = iota // a well-formed request
	stepAnswer
	stepChange // of the world
	stepReconnect
	stepRaw // the bytes of a request, whatever they are
	stepWait
	numSteps
)

// seeds are plays that come far.
func seeds() [][]byte {
	all := []byte{}
	for t := range byte(translator.NumTypes) {
		all = append(all, stepAsk, 0, t, 1, 0, 0, 0) // "*"
	}
	answers := []byte{}
	for t := range byte(translator.NumTypes) {
		answers = append(answers, stepAnswer, 0, t, 0)
	}
	change := []byte{stepChange, 0, 0, stepChange, 1, 1, stepChange, 2, 2, stepChange, 3, 0, stepChange, 4, 1, stepChange, 5, 0, stepChange, 6, 0}
	refuse := []byte{stepAnswer, 0, byte(translator.Route), 1, stepAnswer, 0, byte(translator.Cluster), 1}
	again := []byte{stepReconnect, 0, 0}
	names := []byte{stepAsk, 1, byte(translator.Cluster), 1, 0, 0, 0, stepAsk, 1, byte(translator.Endpoint), 2, 1, 2, 0, 0, stepAsk, 1, byte(translator.Endpoint), 1, 3, 1, 1, 0}
	raw := []byte{stepRaw, 0, 4, 0x12, 0x02, 'a', 'b', stepRaw, 0, 3, 0x2a, 0xff, 0xff}
	return [][]byte{
		all,
		slices.Concat(all, answers, change, answers, refuse, change, answers),
		slices.Concat(all, answers, again, all, answers, []byte{stepWait, 7}, change),
		slices.Concat(names, change, raw, names),
	}
}

// play is a server, its world and two clients, driven by bytes.
type play struct {
	t       *testing.T
	data    []byte
	srv     *Server
	m       *mesh
	was     *world
	clients [2]*visitor
}

func newPlay(t *testing.T, data []byte) *play {
	p := &play{t: t, data: data, srv: New(Options{Authorize: authorizeByID}), m: &mesh{w: newWorld()}, was: newWorld()}
	for i := range services {
		p.m.service(i, nil)
	}
	p.m.caller(0, []int{0, 1})
	p.m.caller(1, []int{1, 2})
	for i := range p.clients {
		id := fmt.Sprint("p", i)
		p.m.proxy(id, []int{i})
		p.clients[i] = &visitor{play: p, id: id}
	}
	p.apply()
	return p
}

func (p *play) next() byte {
	if len(p.data) == 0 {
		return 0
	}
	b := p.data[0]
	p.data = p.data[1:]
	return b
}

// maxSteps keeps an input from taking longer than it can find something in.
const maxSteps = 200

func (p *play) run() {
	for range maxSteps {
		if len(p.data) == 0 {
			break
		}
		step, c := p.next()%numSteps, p.clients[0]
		if step != stepChange && step != stepWait {
			c = p.clients[p.next()%2]
		}
		switch step {
		case stepAsk:
			c.ask(p.request(c))
		case stepAnswer:
			c.answer(p.typ(), p.next()%2 == 1)
		case stepChange:
			p.change()
			p.apply()
		case stepReconnect:
			if p.next()%2 == 0 {
				c.disconnect()
			}
			c.connect()
		case stepRaw:
			n := min(int(p.next()), len(p.data))
			c.ask(p.data[:n])
			p.data = p.data[n:]
		case stepWait:
			time.Sleep(time.Duration(p.next()%8) * time.Second)
		}
		synctest.Wait()
		for _, c := range p.clients {
			c.checkBounds()
		}
	}
	p.end()
}

// end has the clients answer everything, and checks what they hold then.
func (p *play) end() {
	for _, c := range p.clients {
		c.settle()
	}
	for k := range p.m.w.resources { // what was refused is sent again when it changes
		p.m.bump(k)
	}
	p.apply()
	for range 3 {
		for _, c := range p.clients {
			c.settle()
		}
		time.Sleep(2 * settle)
	}
	for _, c := range p.clients {
		c.settle()
		c.checkHeld()
		c.disconnect()
	}
	synctest.Wait()
	p.srv.mu.Lock()
	if p.srv.jobs.workers != 0 {
		p.t.Error("workers left")
	}
	p.srv.mu.Unlock()
	for _, s := range p.srv.Proxies() {
		if s.Connected {
			p.t.Errorf("%s is still connected", s.ID)
		}
	}
}

func (p *play) apply() {
	p.srv.Apply(p.m.w.since(p.was))
	p.was = p.m.w.clone()
	synctest.Wait()
}

// change alters the world.
func (p *play) change() {
	m, what, n := p.m, p.next(), int(p.next())
	i := n % services
	mask := func(of int) (out []int) {
		bits := int(p.next())
		for j := range of {
			if bits>>j&1 == 1 {
				out = append(out, j)
			}
		}
		return out
	}
	switch what % 8 {
	case 0:
		m.bump(translator.Key{Type: translator.Endpoint, Name: cluster(i)})
	case 1:
		m.bump(translator.Key{Type: translator.Cluster, Name: cluster(i)})
	case 2:
		m.bump(translator.Key{Type: translator.Route, Name: fmt.Sprint("r-", i)})
	case 3:
		m.service(i, mask(services))
	case 4:
		m.drop(i)
	case 5:
		m.caller(n%3, mask(services))
	case 6:
		m.proxy(fmt.Sprint("p", n%2), mask(3))
	case 7:
		m.w.resources[translator.Key{Type: translator.HostPlan, Name: "plan", Variant: fmt.Sprint("p", n%2)}] = m.next()
	}
}

func (p *play) typ() translator.Type { return translator.Type(int(p.next()) % translator.NumTypes) }

// name returns one of those that clients ask for.
func (p *play) name() string {
	vocabulary := []string{"*", "c-0", "c-1", "c-2", "c-3", "r-0", "r-1", "r-2", "l-0", "l-1", "l-2", "plan", "none", "", "c-", "**"}
	return vocabulary[int(p.next())%len(vocabulary)]
}

// request makes the bytes of a well-formed request of c: its type, names to subscribe to and to unsubscribe from, and
// flags that say what else stands in it.
func (p *play) request(c *visitor) []byte {
	typ := p.typ()
	r := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: typ.URL()}
	for range p.next() % 4 {
		r.ResourceNamesSubscribe = append(r.ResourceNamesSubscribe, p.name())
	}
	for range p.next() % 4 {
		r.ResourceNamesUnsubscribe = append(r.ResourceNamesUnsubscribe, p.name())
	}
	flags := p.next()
	if flags&1 != 0 { // what it held at the end of the last stream
		r.InitialResourceVersions = maps.Clone(c.kept[typ])
	}
	if flags&2 != 0 {
		r.InitialResourceVersions = map[string]string{p.name(): "0", p.name(): "1"}
	}
	if flags&4 != 0 {
		r.Node = &corev3.Node{Id: c.id}
	}
	if flags&8 != 0 {
		r.ErrorDetail = &statuspb.Status{Message: "no: " + p.name()}
	}
	if flags&16 != 0 {
		r.ResponseNonce = fmt.Sprint(p.next())
	}
	if flags&32 != 0 {
		r.Node = &corev3.Node{Id: p.name()}
	}
	b, err := proto.Marshal(r)
	if err != nil {
		p.t.Fatal(err)
	}
	return b
}

// visitor is a client that asks for anything, and keeps account of what it may be sent.
type visitor struct {
	*play
	id string
	st *stream // nil: not connected
	r  request // as the server's reader keeps it

	mu   sync.Mutex
	subs [translator.NumTypes]wish
	kept [translator.NumTypes]map[string]string // of the last stream
}

// wish is what a visitor has asked for in one type, and what it has got.
type wish struct {
	on, wild bool
	names    map[string]bool
	said     map[string]bool // all names it ever named
	held     map[string]string
	waiting  *message // unanswered
}

func (w *wish) wants(name string) bool { return w.wild || w.names[name] }

func (c *visitor) connect() {
	for t := range c.subs {
		c.kept[t] = c.subs[t].held
		c.subs[t] = wish{}
	}
	old := c.st
	st := &stream{srv: c.srv, since: now()}
	st.send = func(m any) error { return c.receive(st, m) }
	c.st, c.r = st, request{}
	node, err := proto.Marshal(&corev3.Node{Id: c.id})
	if err != nil {
		c.t.Fatal(err)
	}
	if err := c.r.setNode(node); err != nil {
		c.t.Fatal(err)
	}
	if err := c.srv.open(context.Background(), st, &c.r); err != nil {
		c.t.Fatal(err)
	}
	if old != nil { // it died, which the server notices now
		if err := c.srv.handle(old, &request{known: true}); err == nil {
			c.t.Errorf("%s is answered on the older of two streams", c.id)
		}
		c.srv.end(old)
	}
}

func (c *visitor) disconnect() {
	if c.st != nil {
		c.srv.end(c.st)
		c.st = nil
	}
}

// ask sends the bytes of a request.
func (c *visitor) ask(b []byte) {
	if c.st == nil {
		c.connect()
	}
	if err := c.r.decode(b); err != nil {
		c.disconnect()
		return
	}
	c.send()
}

// send has the server handle c.r, and takes it into account.
func (c *visitor) send() {
	r := c.r
	if r.known && !r.renamed {
		c.account(&r)
	}
	if err := c.srv.handle(c.st, &r); err != nil {
		c.disconnect()
	}
}

func (c *visitor) account(r *request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := &c.subs[r.typ]
	first := !w.on
	if first {
		*w = wish{on: true, wild: len(r.subscribe) == 0, names: map[string]bool{}, said: map[string]bool{}, held: map[string]string{}}
	} else if m := w.waiting; r.answers && m != nil && r.nonce == m.gen {
		w.waiting = nil
		if !r.refused {
			w.take(m)
		}
	}
	for _, name := range r.subscribe {
		w.said[name] = true
		if name == "*" {
			w.wild = true
		} else {
			w.names[name] = true
		}
	}
	if first {
		for name, version := range r.initial {
			if w.wants(name) {
				w.held[name] = version
			}
		}
		return
	}
	for _, name := range r.unsubscribe {
		if name == "*" {
			w.wild = false
		} else {
			delete(w.names, name)
		}
	}
	maps.DeleteFunc(w.held, func(name, _ string) bool { return !w.wants(name) })
}

// take takes in what was acknowledged.
func (w *wish) take(m *message) {
	for _, r := range m.resources {
		if w.wants(r.Name) {
			w.held[r.Name] = r.Version
		}
	}
	for _, name := range m.removed {
		delete(w.held, name)
	}
}

// receive checks what a stream is sent. It is the stream's send: the world does not change meanwhile.
func (c *visitor) receive(st *stream, m any) error {
	if f, ok := m.(farewell); ok {
		return fmt.Errorf("%s", string(f))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.st != st {
		return nil // what an earlier stream is still sent
	}
	msg := m.(*message)
	w := &c.subs[msg.typ]
	scope := c.m.w.inScope(c.id)[msg.typ]
	switch {
	case !w.on:
		c.t.Errorf("%s was sent %s, which it never asked for", c.id, msg.typ)
	case w.waiting != nil:
		c.t.Errorf("%s has two responses of %s to answer", c.id, msg.typ)
	}
	for _, r := range msg.resources {
		if version, ok := scope[r.Name]; !ok || version != r.Version {
			c.t.Errorf("%s was sent %s %q in version %q; in its scope is %q", c.id, msg.typ, r.Name, r.Version, version)
		}
		if !w.wants(r.Name) {
			c.t.Errorf("%s was sent %s %q, for which it does not ask", c.id, msg.typ, r.Name)
		}
	}
	for _, name := range msg.removed {
		if _, ok := scope[name]; ok {
			c.t.Errorf("%s was told that %s %q is gone, which is in its scope", c.id, msg.typ, name)
		}
	}
	w.waiting = msg
	return nil
}

func (c *visitor) unanswered(t translator.Type) *message {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.subs[t].waiting
}

// answer acknowledges or refuses what is unanswered.
func (c *visitor) answer(t translator.Type, refuse bool) {
	m := c.unanswered(t)
	if c.st == nil || m == nil {
		return
	}
	c.r = request{node: c.r.node, nodeID: c.r.nodeID, typ: t, known: true, answers: true, nonce: m.gen, refused: refuse, reason: "no " + strings.Repeat("x", 10)}
	c.send()
}

// settle answers until there is nothing more to answer.
func (c *visitor) settle() {
	for busy := true; busy; {
		busy = false
		synctest.Wait()
		for t := range c.subs {
			if c.st != nil && c.unanswered(translator.Type(t)) != nil {
				busy = true
				c.answer(translator.Type(t), false)
			}
		}
	}
}

// checkBounds checks that what the server remembers of the stream does not grow with what the client says.
func (c *visitor) checkBounds() {
	if c.st == nil {
		return
	}
	c.srv.mu.Lock()
	defer c.srv.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.st.rounds); n > maxRounds {
		c.t.Errorf("%s keeps %d rounds open", c.id, n)
	}
	if c.st.unacked < 0 {
		c.t.Errorf("%s has %d bytes to answer", c.id, c.st.unacked)
	}
	scope := c.m.w.inScope(c.id)
	for t := range c.st.subs {
		b, w := &c.st.subs[t], &c.subs[t]
		if len(b.names) != len(w.names) {
			c.t.Errorf("%s: the server knows %d names of %s, the client asks for %d", c.id, len(b.names), translator.Type(t), len(w.names))
		}
		for name := range b.owed {
			if _, ok := scope[t][name]; !ok && !w.said[name] && !published(name) {
				c.t.Errorf("%s: %s %q is remembered, for which nobody ever asked", c.id, translator.Type(t), name)
			}
		}
	}
}

// published reports whether the world may have had a resource of that name.
func published(name string) bool { return len(name) == len("c-0") || name == "plan" }

// checkHeld compares what a client holds with what it wants of its scope. A client that refused to let something go of
// which nothing changed since may hold more.
func (c *visitor) checkHeld() {
	if c.st == nil {
		return
	}
	c.srv.mu.Lock()
	defer c.srv.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	refused := slices.ContainsFunc(c.st.subs[:], func(b sub) bool { return b.nacked })
	scope := c.m.w.inScope(c.id)
	for t := range c.subs {
		w := &c.subs[t]
		if !w.on {
			continue
		}
		held, want := maps.Clone(w.held), maps.Clone(scope[t])
		maps.DeleteFunc(want, func(name, _ string) bool { return !w.wants(name) })
		if refused {
			maps.DeleteFunc(held, func(name, _ string) bool { return want[name] == "" })
		}
		if !maps.Equal(want, held) {
			c.t.Errorf("%s holds %s %v, want %v", c.id, translator.Type(t), w.held, want)
		}
	}
}
