package agent

import (
	"bytes"
	"fmt"
	"strings"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"

	"github.com/wattle-mesh/wattle/translator"
)

// inbound is a listener whose filter chains take certificates of this host. Envoy does not open a listener, nor
// take a change to it, before all its secrets are there, and gives up after 15 s: so it must not see a chain whose
// secret the host does not have. Immutable.
type inbound struct {
	whole    *translator.Resource
	listener *listenerv3.Listener
	needs    [][]string // names of secrets, for each filter chain
}

// readInbound returns nil for a listener that takes no certificate of this host.
func readInbound(r *translator.Resource) (*inbound, error) {
	if !bytes.Contains(r.Wire, []byte(inboundSecret+"spiffe://")) {
		return nil, nil
	}
	var resource discoveryv3.Resource
	if err := proto.Unmarshal(r.Wire, &resource); err != nil {
		return nil, fmt.Errorf("listener %s: %w", r.Name, err)
	}
	in := &inbound{whole: r, listener: new(listenerv3.Listener)}
	if err := resource.GetResource().UnmarshalTo(in.listener); err != nil {
		return nil, fmt.Errorf("listener %s: %w", r.Name, err)
	}
	taken := false
	for _, c := range in.listener.GetFilterChains() {
		names, err := chainSecrets(c)
		if err != nil {
			return nil, fmt.Errorf("listener %s: filter chain %s: %w", r.Name, c.GetName(), err)
		}
		taken = taken || len(names) > 0
		in.needs = append(in.needs, names)
	}
	if !taken {
		return nil, nil
	}
	return in, nil
}

// chainSecrets lists the inbound certificates that a filter chain takes.
func chainSecrets(c *listenerv3.FilterChain) ([]string, error) {
	config := c.GetTransportSocket().GetTypedConfig()
	var tls tlsv3.DownstreamTlsContext
	if !config.MessageIs(&tls) {
		return nil, nil
	}
	if err := config.UnmarshalTo(&tls); err != nil {
		return nil, err
	}
	var names []string
	for _, s := range tls.GetCommonTlsContext().GetTlsCertificateSdsSecretConfigs() {
		if strings.HasPrefix(s.GetName(), inboundSecret) {
			names = append(names, s.GetName())
		}
	}
	return names, nil
}

// with returns the listener with those chains whose secrets are had and that are not closed: itself if that is all, nil if
// it is none.
func (in *inbound) with(has func(secret string) bool, closed map[string]bool) (*translator.Resource, error) {
	var chains []*listenerv3.FilterChain
	for i, c := range in.listener.GetFilterChains() {
		had := !closed[c.GetName()]
		for _, name := range in.needs[i] {
			had = had && has(name)
		}
		if had {
			chains = append(chains, c)
		}
	}
	switch len(chains) {
	case len(in.needs):
		return in.whole, nil
	case 0:
		return nil, nil
	}
	part := proto.CloneOf(in.listener)
	part.FilterChains = chains
	return newResource(translator.Listener, in.whole.Name, part, nil)
}
