// Package dns is the resolver of a host's captured workloads. In comes a Config, a view of the mesh's names for each of
// them; each view is answered at an address of its own, so that a workload sees what it may call and nothing else. All
// other names are asked of the host's resolvers.
package dns

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"

	wire "github.com/miekg/dns"
	"golang.org/x/sync/errgroup"
)

// Port is where every view is answered.
const Port = 53

const (
	retry     = 2 * time.Second // until an address that could not be had is tried again
	tcpIdle   = 10 * time.Second
	tcpAsked  = 128 // questions on one TCP connection
	udpBuffer = 4096
)

// Options configure a Resolver. Log is required.
type Options struct {
	Log *slog.Logger
	// Resolvers are files in the form of resolv.conf. The servers of the first are asked first. They are read again when they
	// change.
	Resolvers []string
	// Port is where it listens, and where it asks the host's resolvers, instead of 53: for tests.
	Port uint16
	// Say is told how the resolver is, whenever that changes; optional.
	Say func(status string)
}

// Resolver answers at the addresses of a Config.
type Resolver struct {
	o       Options
	forward *forwarder
	next    chan change
}

// change is a new configuration.
type change struct {
	Config
	done chan struct{} // closed when it is in force
}

// New makes a Resolver that serves nothing until Run.
func New(o Options) *Resolver {
	if o.Port == 0 {
		o.Port = Port
	}
	if o.Say == nil {
		o.Say = func(string) {}
	}
	return &Resolver{o: o, forward: newForwarder(o.Log, o.Resolvers, o.Port), next: make(chan change)}
}

// Set brings a configuration into force, with those of its addresses that can be had. Views whose address stays are answered
// all the while. It returns when that is done, or ctx is.
func (r *Resolver) Set(ctx context.Context, c Config) {
	x := change{c, make(chan struct{})}
	select {
	case r.next <- x:
	case <-ctx.Done():
		return
	}
	select {
	case <-x.done:
	case <-ctx.Done():
	}
}

// desk is one address that is served.
type desk struct {
	zone   atomic.Pointer[zone]
	cancel context.CancelFunc
	ended  chan error
}

// Run serves until ctx is done, and returns nil then. An address that cannot be had is tried again; the others do not wait.
func (r *Resolver) Run(ctx context.Context) error {
	desks := map[netip.Addr]*desk{}
	defer func() {
		for _, d := range desks {
			d.cancel()
			<-d.ended
		}
	}()
	said := map[netip.Addr]bool{}
	c := change{done: make(chan struct{})}
	for {
		want := map[netip.Addr]bool{}
		for _, v := range c.Views {
			want[v.Address] = true
		}
		for at, d := range desks {
			if !want[at] {
				d.cancel()
				<-d.ended
				delete(desks, at)
			}
		}
		var again <-chan time.Time
		for _, v := range c.Views {
			if d := desks[v.Address]; d != nil {
				d.zone.Store(newZone(v))
				continue
			}
			d, err := r.open(ctx, v)
			if err != nil {
				if again = time.After(retry); !said[v.Address] {
					r.o.Log.Error("cannot answer a workload's questions", "workload", v.For, "error", err, "again_in", retry,
						"remedy", "if another DNS server has port 53 of all addresses, let it listen at its own only (bind-interfaces of dnsmasq, listen-on of named)")
				}
				said[v.Address] = true
				continue
			}
			if said[v.Address] {
				r.o.Log.Info("a workload's questions are answered", "workload", v.For)
				delete(said, v.Address)
			}
			desks[v.Address] = d
		}
		r.forward.skip(want)
		r.o.Say(status(len(desks), len(c.Views)))
		if c.done != nil {
			close(c.done)
			c.done = nil
		}
		select {
		case c = <-r.next:
		case <-again:
		case <-ctx.Done():
			return nil
		}
	}
}

func status(served, all int) string {
	if served < all {
		return fmt.Sprintf("answers for %d of %d workloads; see the log", served, all)
	}
	return fmt.Sprintf("answers for %d workloads", all)
}

// open listens at the address of a view and answers there.
func (r *Resolver) open(ctx context.Context, v View) (*desk, error) {
	at := net.JoinHostPort(v.Address.String(), strconv.Itoa(int(r.o.Port)))
	packets, err := net.ListenPacket("udp", at)
	if err != nil {
		return nil, err
	}
	stream, err := net.Listen("tcp", at)
	if err != nil {
		_ = packets.Close()
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	d := &desk{cancel: cancel, ended: make(chan error, 1)}
	d.zone.Store(newZone(v))
	handler := wire.HandlerFunc(func(w wire.ResponseWriter, m *wire.Msg) { r.serve(ctx, d.zone.Load(), w, m) })
	udp := &wire.Server{PacketConn: packets, Handler: handler, UDPSize: udpBuffer}
	tcp := &wire.Server{Listener: stream, Handler: handler, MaxTCPQueries: tcpAsked, IdleTimeout: func() time.Duration { return tcpIdle }}
	g, inner := errgroup.WithContext(ctx)
	for _, s := range []*wire.Server{udp, tcp} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		g.Go(s.ActivateAndServe)
		g.Go(func() error {
			<-started // a server that has not begun cannot be told to end
			<-inner.Done()
			return s.Shutdown()
		})
	}
	go func() {
		err := g.Wait()
		if err != nil && ctx.Err() == nil {
			r.o.Log.Error("an address is not answered any more", "workload", v.For, "address", at, "error", err)
		}
		d.ended <- err
	}()
	return d, nil
}

// serve answers one question.
func (r *Resolver) serve(ctx context.Context, z *zone, w wire.ResponseWriter, m *wire.Msg) {
	if !local(w.RemoteAddr()) {
		return // not even an answer: the sender may be made up
	}
	answer := r.answer(ctx, z, w.RemoteAddr().Network(), m)
	if w.RemoteAddr().Network() == "udp" {
		answer.Truncate(room(m))
	}
	_ = w.WriteMsg(answer) // who asked has gone
}

func (r *Resolver) answer(ctx context.Context, z *zone, network string, m *wire.Msg) *wire.Msg {
	switch {
	case m.Response || m.Opcode != wire.OpcodeQuery:
		return new(wire.Msg).SetRcode(m, wire.RcodeNotImplemented)
	case len(m.Question) != 1:
		return new(wire.Msg).SetRcode(m, wire.RcodeFormatError)
	case m.Question[0].Qclass == wire.ClassINET && z.owns(wire.CanonicalName(m.Question[0].Name)):
		answer := z.answer(m)
		if m.IsEdns0() != nil {
			answer.SetEdns0(udpBuffer, false)
		}
		return answer
	case !z.Forward:
		return new(wire.Msg).SetRcode(m, wire.RcodeRefused)
	}
	answer, err := r.forward.ask(ctx, network, m)
	if err != nil {
		r.o.Log.Debug("the host's resolvers do not answer", "name", m.Question[0].Name, "workload", z.For, "error", err)
		return new(wire.Msg).SetRcode(m, wire.RcodeServerFailure)
	}
	return answer
}

// room is how large an answer by UDP may be.
func room(m *wire.Msg) int {
	if o := m.IsEdns0(); o != nil {
		return max(int(o.UDPSize()), wire.MinMsgSize)
	}
	return wire.MinMsgSize
}

// local reports whether a question comes from this host.
func local(from net.Addr) bool {
	at, err := netip.ParseAddrPort(from.String())
	if err != nil {
		return false
	}
	addr := at.Addr().Unmap().WithZone("")
	if addr.IsLoopback() {
		return true
	}
	all, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Unmap().WithZone("") == addr {
			return true
		}
	}
	return false
}
