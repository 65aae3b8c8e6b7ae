package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	wire "github.com/miekg/dns"
)

const (
	maxAsked   = 512             // questions that wait for the host's resolvers at a time
	askOne     = 2 * time.Second // for each of them
	askAll     = 6 * time.Second
	lookAgain  = time.Second // the files are looked at so often at most
	maxServers = 8
)

// errBusy is said of a question too many.
var errBusy = errors.New("too many questions are under way")

// forwarder asks the host's own resolvers, in the order in which they are named, the last that answered first. It keeps no
// answers: that is the host's resolvers' business.
type forwarder struct {
	log   *slog.Logger
	files []string
	port  string
	slots chan struct{}

	mu      sync.Mutex
	own     map[netip.Addr]bool // addresses of this resolver: asking them would go round in circles
	looked  time.Time
	stamp   string // of the files, when they were read last
	servers []string
	good    int // of servers: the last that answered
}

func newForwarder(log *slog.Logger, files []string, port uint16) *forwarder {
	return &forwarder{log: log, files: files, port: strconv.Itoa(int(port)), slots: make(chan struct{}, maxAsked)}
}

// skip says which addresses are the resolver's own.
func (f *forwarder) skip(own map[netip.Addr]bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.own, f.stamp, f.looked = own, "", time.Time{}
}

// ask asks the host's resolvers over the network by which the question came: an answer that is too long for a datagram
// comes truncated, and who asked asks again over TCP.
func (f *forwarder) ask(ctx context.Context, network string, m *wire.Msg) (*wire.Msg, error) {
	select {
	case f.slots <- struct{}{}:
		defer func() { <-f.slots }()
	default:
		return nil, errBusy
	}
	ctx, cancel := context.WithTimeout(ctx, askAll)
	defer cancel()
	servers, first := f.list()
	if len(servers) == 0 {
		return nil, fmt.Errorf("none is named in %s", strings.Join(f.files, " or "))
	}
	var errs []error
	var last *wire.Msg
	for i := range servers {
		n := (first + i) % len(servers)
		answer, err := exchange(ctx, network, servers[n], m)
		switch {
		case err != nil:
			errs = append(errs, err)
			continue
		case answer.Rcode == wire.RcodeServerFailure || answer.Rcode == wire.RcodeRefused || answer.Rcode == wire.RcodeNotImplemented:
			last = answer
			continue
		}
		f.mu.Lock()
		f.good = n
		f.mu.Unlock()
		return answer, nil
	}
	if last != nil {
		return last, nil
	}
	return nil, errors.Join(errs...)
}

// exchange asks one server. The question gets an id of its own, and a port, both random.
func exchange(ctx context.Context, network, server string, m *wire.Msg) (*wire.Msg, error) {
	q := m.Copy()
	q.Id = wire.Id()
	size := uint16(wire.MinMsgSize)
	if o := q.IsEdns0(); o != nil {
		size = max(size, o.UDPSize())
	}
	ctx, cancel := context.WithTimeout(ctx, askOne)
	defer cancel()
	c := wire.Client{Net: network, UDPSize: size, Timeout: askOne}
	answer, _, err := c.ExchangeContext(ctx, q, server)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", server, err)
	}
	if len(answer.Question) != 1 || !strings.EqualFold(answer.Question[0].Name, q.Question[0].Name) || answer.Question[0].Qtype != q.Question[0].Qtype {
		return nil, fmt.Errorf("%s: it answers what was not asked", server)
	}
	answer.Id = m.Id
	return answer, nil
}

// list returns the servers, and which of them to ask first.
func (f *forwarder) list() ([]string, int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if now.Sub(f.looked) < lookAgain {
		return f.servers, f.good
	}
	f.looked = now
	if s := stamp(f.files); s != f.stamp {
		servers := f.read()
		if !slices.Equal(servers, f.servers) {
			f.log.Info("other names are asked of the host's resolvers", "servers", servers)
			f.servers, f.good = servers, 0
		}
		f.stamp = s
	}
	return f.servers, f.good
}

// stamp tells versions of files apart.
func stamp(files []string) string {
	var b strings.Builder
	for _, file := range files {
		if info, err := os.Stat(file); err == nil {
			fmt.Fprintf(&b, "%s %d %d\n", file, info.Size(), info.ModTime().UnixNano())
		}
	}
	return b.String()
}

// read returns the servers that the files name, but for this resolver itself.
func (f *forwarder) read() []string {
	var out []string
	for _, file := range f.files {
		c, err := wire.ClientConfigFromFile(file)
		if err != nil {
			continue
		}
		for _, s := range c.Servers {
			at, err := netip.ParseAddr(s)
			server := net.JoinHostPort(s, f.port)
			if err == nil && !f.own[at.Unmap()] && len(out) < maxServers && !slices.Contains(out, server) {
				out = append(out, server)
			}
		}
	}
	return out
}
