// Command dns answers for a zone file, over UDP and TCP: the demo's name server.
package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"strings"

	"github.com/miekg/dns"
)

func main() {
	file := flag.String("zone", "", "the zone's master `FILE` (RFC 1035)")
	listen := flag.String("listen", "127.0.0.1:5353", "where to answer, `ADDRESS:PORT`")
	flag.Parse()
	if err := serve(*file, *listen); err != nil {
		log.Fatal(err)
	}
}

func serve(file, listen string) error {
	z, err := read(file)
	if err != nil {
		return err
	}
	ended := make(chan error, 2)
	for _, network := range []string{"udp", "tcp"} {
		s := &dns.Server{Addr: listen, Net: network, Handler: z}
		go func() { ended <- s.ListenAndServe() }()
	}
	return <-ended
}

// zone is a zone's records by name, in lower case.
type zone struct {
	origin  string
	records map[string][]dns.RR
	soa     dns.RR
}

func read(file string) (*zone, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z := &zone{records: map[string][]dns.RR{}}
	p := dns.NewZoneParser(f, "", file)
	for rr, ok := p.Next(); ok; rr, ok = p.Next() {
		name := strings.ToLower(rr.Header().Name)
		if rr.Header().Rrtype == dns.TypeSOA {
			z.origin, z.soa = name, rr
		}
		z.records[name] = append(z.records[name], rr)
	}
	if err := p.Err(); err != nil {
		return nil, err
	}
	if z.soa == nil {
		return nil, fmt.Errorf("%s has no SOA record", file)
	}
	return z, nil
}

// ServeDNS implements dns.Handler.
func (z *zone) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	a := new(dns.Msg).SetReply(q)
	a.Authoritative = true
	switch {
	case len(q.Question) != 1:
		a.Rcode = dns.RcodeFormatError
	case !dns.IsSubDomain(z.origin, q.Question[0].Name):
		a.Rcode = dns.RcodeRefused
	default:
		records, known := z.records[strings.ToLower(q.Question[0].Name)]
		for _, rr := range records {
			if rr.Header().Rrtype == q.Question[0].Qtype {
				a.Answer = append(a.Answer, rr)
			}
		}
		if !known {
			a.Rcode = dns.RcodeNameError
		}
		if len(a.Answer) == 0 {
			a.Ns = []dns.RR{z.soa}
		}
	}
	_ = w.WriteMsg(a) // who asked asks again
}
