package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	wire "github.com/miekg/dns"
	"golang.org/x/time/rate"
)

// bufferSize is how large an answer by UDP may be: no datagram of it is cut to pieces on its way (DNS flag day 2020).
const bufferSize = 1232

// resolverClient asks one resolver. Each query has an id and a port of its own, both random, and an answer must repeat the
// id and the question.
type resolverClient struct {
	address netip.AddrPort
	timeout time.Duration
	limit   *rate.Limiter
	plain   atomic.Bool // it does not know EDNS0
}

// unreachable is a resolver that gave no answer, or none that can be read: it is not the name's fault.
type unreachable struct{ error }

func (e unreachable) Unwrap() error { return e.error }

// exchange asks one question. The answer says that there are records or that there are none; all else is an error.
func (s *resolverClient) exchange(ctx context.Context, q question) (*wire.Msg, error) {
	edns := !s.plain.Load()
	m := q.message(edns)
	answer, err := s.send(ctx, "udp", m)
	if err == nil && edns && refusesEDNS(answer) {
		m = q.message(false)
		if answer, err = s.send(ctx, "udp", m); err == nil && !refusesEDNS(answer) {
			s.plain.Store(true)
		}
	}
	if err == nil && answer.Truncated {
		answer, err = s.send(ctx, "tcp", m)
	}
	switch {
	case err != nil:
		return nil, unreachable{err}
	case answer.Rcode != wire.RcodeSuccess && answer.Rcode != wire.RcodeNameError:
		return nil, errors.New(rcodeText(answer.Rcode))
	}
	return answer, nil
}

// refusesEDNS reports whether the answer may be what a server says that does not know EDNS0 (RFC 6891 7).
func refusesEDNS(m *wire.Msg) bool {
	return m.Rcode == wire.RcodeFormatError || m.Rcode == wire.RcodeNotImplemented || m.Rcode == wire.RcodeBadVers
}

func rcodeText(code int) string {
	if s, ok := wire.RcodeToString[code]; ok {
		return s
	}
	return fmt.Sprintf("RCODE %d", code)
}

func (q question) message(edns bool) *wire.Msg {
	m := new(wire.Msg)
	m.SetQuestion(q.name, q.kind)
	if edns {
		m.SetEdns0(bufferSize, false)
	}
	return m
}

// send sends a query and waits for what answers it. ctx may end it.
func (s *resolverClient) send(ctx context.Context, network string, m *wire.Msg) (*wire.Msg, error) {
	if err := s.limit.Wait(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, network, s.address.String())
	if err != nil {
		return nil, s.plainly(network, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	c := &wire.Conn{Conn: conn, UDPSize: bufferSize}
	if err := c.WriteMsg(m); err != nil {
		return nil, s.plainly(network, err)
	}
	for {
		answer, err := receive(c, m)
		if errors.Is(err, errForeign) && network == "udp" {
			continue // somebody guesses, or an answer comes late
		}
		if err != nil {
			return nil, s.plainly(network, err)
		}
		return answer, nil
	}
}

// errForeign is a message that answers another question.
var errForeign = errors.New("the answer is to another question")

// responseBit is the QR bit in a header's second word (RFC 1035 4.1.1).
const responseBit = 1 << 15

func receive(c *wire.Conn, m *wire.Msg) (*wire.Msg, error) {
	var h wire.Header
	raw, err := c.ReadMsgHeader(&h)
	switch {
	case errors.Is(err, wire.ErrShortRead), err == nil && (h.Id != m.Id || h.Bits&responseBit == 0):
		return nil, errForeign
	case err != nil:
		return nil, err
	}
	answer := new(wire.Msg)
	if err := answer.Unpack(raw); err != nil {
		return nil, fmt.Errorf("its answer cannot be read: %w", err)
	}
	if !answer.Truncated && (len(answer.Answer) != int(h.Ancount) || len(answer.Ns) != int(h.Nscount) || len(answer.Extra) != int(h.Arcount)) {
		return nil, errors.New("its answer ends too early") // the library takes what there is
	}
	if !echoes(answer, m.Question[0]) {
		return nil, errForeign
	}
	return answer, nil
}

// echoes reports whether an answer repeats the question. One that refuses to look at it need not.
func echoes(m *wire.Msg, q wire.Question) bool {
	if len(m.Question) == 0 {
		return m.Rcode != wire.RcodeSuccess && m.Rcode != wire.RcodeNameError
	}
	got := m.Question[0]
	return len(m.Question) == 1 && got.Qtype == q.Qtype && got.Qclass == q.Qclass && strings.EqualFold(got.Name, q.Name)
}

// plainly says what happened without what differs from query to query.
func (s *resolverClient) plainly(network string, err error) error {
	by := ""
	if network == "tcp" {
		by = " by TCP"
	}
	var timeout net.Error
	var number syscall.Errno
	switch {
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("no answer%s within %s", by, s.timeout)
	case errors.As(err, &number):
		return fmt.Errorf("%w%s", number, by)
	}
	return fmt.Errorf("%w%s", err, by)
}
