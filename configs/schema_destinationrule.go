package configs

import (
	"fmt"
	"time"

	"github.com/zclconf/go-cty/cty"
)

var destinationRuleBlock = newBlock(block[DestinationRule]{
	doc: "A destination rule says how the callers of a service treat it: how they choose an endpoint, how many connections they open, when they leave an endpoint out; and which subsets it has. A service has at most one.",
	labels: []label[DestinationRule]{
		named("name", anyName(), func(r *DestinationRule) *string { return &r.Name }, "Its name; one of a kind in its namespace."),
	},
	attrs: []attr[DestinationRule]{
		namespaceAttr(func(r *DestinationRule) *Block { return &r.Block }),
		field("host", serviceRef(), func(r *DestinationRule) *ServiceRef { return &r.Host }, "The service.").must(),
	},
	blocks: append(trafficBlocks(func(r *DestinationRule) *TrafficPolicy { return &r.Traffic }),
		many("subset", subsetBlock, func(r *DestinationRule) *[]*Subset { return &r.Subsets }, "A part of the service's endpoints that routes can name."),
	),
	origin: func(r *DestinationRule) *string { return &r.Origin },
	finish: func(d *decoder, r *DestinationRule) {
		d.setNamespace(&r.Block)
		d.unique("destination_rule", r.Namespace, r.Name)
		if r.Host.Name != "" {
			d.out.ruleHosts = append(d.out.ruleHosts, nameRef{r.Host.String(), d.at(d.frame, "host")})
		}
		names := map[string]place{}
		for i, s := range r.Subsets {
			p := d.src.place(d.frame.child("subset", i).head.rng, d.frame)
			if first, twice := names[s.Name]; twice && s.Name != "" {
				d.out.report(duplicate("subset", s.Name, first, p))
			}
			names[s.Name] = p
		}
	},
})

var subsetBlock = newBlock(block[Subset]{
	doc: "A part of a service's endpoints. Its load_balancer, connection_pool and outlier_detection blocks each take the place of the rule's.",
	labels: []label[Subset]{
		named("name", anyName(), func(s *Subset) *string { return &s.Name }, "Its name, as routes write it."),
	},
	attrs: []attr[Subset]{
		field("labels", dict(anyText(), "", textKey), func(s *Subset) *map[string]string { return &s.Labels }, "The endpoints that have all of this in their meta.").must(),
	},
	blocks: trafficBlocks(func(s *Subset) *TrafficPolicy { return &s.Traffic }),
	origin: func(s *Subset) *string { return &s.Origin },
	finish: func(d *decoder, s *Subset) {
		if s.Labels != nil && len(s.Labels) == 0 {
			d.report(d.at(d.frame, "labels"), Error, codeEmpty, fmt.Sprintf("subset %q has no labels", s.Name), `Say what its endpoints have in their meta: labels = { version = "v1" }.`)
		}
	},
})

// trafficBlocks are the blocks of a traffic policy, which stand flat in rules and subsets.
func trafficBlocks[T any](at func(*T) *TrafficPolicy) []child[T] {
	return []child[T]{
		one("load_balancer", loadBalancerBlock, func(t *T) **LoadBalancer { return &at(t).LoadBalancer }, "How an endpoint is chosen. Without the block: `least_request` for HTTP, `round_robin` for TCP."),
		one("connection_pool", connectionPoolBlock, func(t *T) **ConnectionPool { return &at(t).ConnectionPool }, "What a proxy opens at most."),
		one("outlier_detection", outlierDetectionBlock, func(t *T) **OutlierDetection { return &at(t).OutlierDetection }, "When an endpoint that fails is left out for a while. Without the block: never."),
	}
}

var loadBalancerBlock = newBlock(block[LoadBalancer]{
	doc: "How an endpoint is chosen. At most one of simple and consistent_hash is given.",
	attrs: []attr[LoadBalancer]{
		field("simple", oneOf("round_robin", "least_request", "random"), func(l *LoadBalancer) *string { return &l.Simple },
			"`least_request` takes the endpoint with fewer requests of two that are picked at random, `round_robin` one after the other, `random` any.").orText("`\"least_request\"` for HTTP, `\"round_robin\"` for TCP"),
	},
	blocks: []child[LoadBalancer]{
		one("consistent_hash", consistentHashBlock, func(l *LoadBalancer) **ConsistentHash { return &l.ConsistentHash }, "Requests with the same key go to the same endpoint."),
	},
	finish: func(d *decoder, l *LoadBalancer) {
		if l.ConsistentHash != nil && l.Simple != "" {
			d.failFrame(d.frame, codeExactlyOne, "load_balancer has both simple and consistent_hash", "Remove one of them.")
		}
	},
})

var consistentHashBlock = newBlock(block[ConsistentHash]{
	doc: "Requests with the same key go to the same endpoint as long as the endpoints stay. Exactly one key is given.",
	attrs: []attr[ConsistentHash]{
		field("http_header_name", headerName(), func(h *ConsistentHash) *string { return &h.HTTPHeaderName }, "The key is this header."),
		field("http_query_parameter_name", text(), func(h *ConsistentHash) *string { return &h.HTTPQueryParameterName }, "The key is this parameter of the query."),
		field("use_source_ip", boolean(), func(h *ConsistentHash) *bool { return &h.UseSourceIP }, "The key is the client's address."),
		field("minimum_ring_size", whole[uint64](1, 8<<20), func(h *ConsistentHash) *uint64 { return &h.MinimumRingSize }, "The least number of places on the ring; more spread requests more evenly and take more memory.").or(cty.NumberIntVal(1024)),
	},
	blocks: []child[ConsistentHash]{
		one("http_cookie", httpCookieBlock, func(h *ConsistentHash) **HTTPCookie { return &h.HTTPCookie }, "The key is this cookie."),
	},
	finish: func(d *decoder, h *ConsistentHash) {
		if _, _, given := d.frame.reader.attr("use_source_ip"); given && !h.UseSourceIP && d.clean() {
			d.report(d.at(d.frame, "use_source_ip"), Error, codeExactlyOne, "use_source_ip = false names no key", "Set it to true, or name another key instead.")
			return
		}
		d.exactlyOne("consistent_hash", "http_header_name", "http_query_parameter_name", "use_source_ip", "http_cookie")
	},
})

var httpCookieBlock = newBlock(block[HTTPCookie]{
	doc: "The cookie whose value is the key.",
	attrs: []attr[HTTPCookie]{
		field("name", cookieName(), func(c *HTTPCookie) *string { return &c.Name }, "Its name.").must(),
		field("path", urlPath(""), func(c *HTTPCookie) *string { return &c.Path }, "Its path, when it is made."),
		optional("ttl", duration(0, year), func(c *HTTPCookie) **Duration { return &c.TTL }, "If the request has no such cookie, one is made that lives this long; `\"0s\"` until the browser is closed.").orText("none is made"),
	},
})

var connectionPoolBlock = newBlock(block[ConnectionPool]{
	doc: "What one proxy opens at most to a destination. What is beyond is answered with 503, or refused.",
	blocks: []child[ConnectionPool]{
		one("tcp", tcpPoolBlock, func(p *ConnectionPool) **TCPPool { return &p.TCP }, "Connections, those of HTTP included."),
		one("http", httpPoolBlock, func(p *ConnectionPool) **HTTPPool { return &p.HTTP }, "Requests."),
	},
})

var tcpPoolBlock = newBlock(block[TCPPool]{
	doc: "Bounds of connections.",
	attrs: []attr[TCPPool]{
		optional("max_connections", whole[uint32](1, 1<<31-1), func(p *TCPPool) **uint32 { return &p.MaxConnections }, "Connections at a time.").orText("no limit"),
		optional("connect_timeout", duration(time.Millisecond, day), func(p *TCPPool) **Duration { return &p.ConnectTimeout }, "How long opening one may take.").orText("`\"5s\"`"),
		optional("idle_timeout", duration(0, year), func(p *TCPPool) **Duration { return &p.IdleTimeout }, "A TCP connection without data is closed after this time; `\"0s\"` never.").orText("`\"1h\"`"),
	},
})

var httpPoolBlock = newBlock(block[HTTPPool]{
	doc: "Bounds of requests.",
	attrs: []attr[HTTPPool]{
		optional("max_pending_requests", whole[uint32](0, 1<<31-1), func(p *HTTPPool) **uint32 { return &p.MaxPendingRequests }, "Requests that wait for a connection.").orText("no limit"),
		optional("max_requests", whole[uint32](1, 1<<31-1), func(p *HTTPPool) **uint32 { return &p.MaxRequests }, "Requests at a time.").orText("no limit"),
		optional("max_requests_per_connection", whole[uint32](1, 1<<31-1), func(p *HTTPPool) **uint32 { return &p.MaxRequestsPerConnection }, "A connection is closed after this many requests.").orText("no limit"),
		optional("max_retries", whole[uint32](0, 1<<31-1), func(p *HTTPPool) **uint32 { return &p.MaxRetries }, "Retries at a time.").orText("no limit"),
		optional("idle_timeout", duration(0, year), func(p *HTTPPool) **Duration { return &p.IdleTimeout }, "A connection without requests is closed after this time; `\"0s\"` never.").orText("`\"1h\"`"),
	},
})

var outlierDetectionBlock = newBlock(block[OutlierDetection]{
	doc: "When an endpoint that fails is left out for a while. Each proxy judges by what it sees itself.",
	attrs: []attr[OutlierDetection]{
		optional("consecutive_5xx_errors", whole[uint32](0, 1<<31-1), func(o *OutlierDetection) **uint32 { return &o.Consecutive5xxErrors }, "So many answers of 500 and above in a row; failed connections count. `0` turns it off.").orText("off"),
		optional("consecutive_gateway_errors", whole[uint32](0, 1<<31-1), func(o *OutlierDetection) **uint32 { return &o.ConsecutiveGatewayErrors }, "So many answers of 502, 503 or 504 in a row. `0` turns it off.").orText("off"),
		optional("interval", duration(time.Millisecond, day), func(o *OutlierDetection) **Duration { return &o.Interval }, "How often is looked.").orText("`\"10s\"`, Envoy's"),
		optional("base_ejection_time", duration(time.Millisecond, day), func(o *OutlierDetection) **Duration { return &o.BaseEjectionTime }, "How long it is left out, times how often it was.").orText("`\"30s\"`, Envoy's"),
		optional("max_ejection_percent", whole[uint32](0, 100), func(o *OutlierDetection) **uint32 { return &o.MaxEjectionPercent }, "How many of the endpoints are left out at most, in percent.").orText("`10`, Envoy's"),
		optional("min_health_percent", whole[uint32](0, 100), func(o *OutlierDetection) **uint32 { return &o.MinHealthPercent }, "With fewer healthy endpoints than this, in percent, none is left out and calls go to all.").orText("`0`"),
	},
})
