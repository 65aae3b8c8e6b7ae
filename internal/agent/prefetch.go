package agent

import (
	"fmt"
	"slices"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	ondemandv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/cert_selectors/on_demand_secret/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/wattle-mesh/wattle/translator"
)

// prefetchKey is the cluster by which Envoy fetches the certificates that workloads call with, ahead of their first call.
var prefetchKey = translator.Key{Type: translator.Cluster, Name: translator.CertsCluster}

// prefetching returns the cluster with the names of those secrets that are had: itself if all are. Envoy gives up a name for
// which it is told that there is nothing, and the workload's first call would need the agent.
func prefetching(r *translator.Resource, has func(secret string) bool) (*translator.Resource, error) {
	var resource discoveryv3.Resource
	var cluster clusterv3.Cluster
	var tls tlsv3.UpstreamTlsContext
	var selector ondemandv3.Config
	err := proto.Unmarshal(r.Wire, &resource)
	if err == nil {
		err = resource.GetResource().UnmarshalTo(&cluster)
	}
	if err == nil {
		err = cluster.GetTransportSocket().GetTypedConfig().UnmarshalTo(&tls)
	}
	config := tls.GetCommonTlsContext().GetCustomTlsCertificateSelector()
	if err == nil {
		err = config.GetTypedConfig().UnmarshalTo(&selector)
	}
	if err != nil {
		return nil, fmt.Errorf("cluster %s: %w", r.Name, err)
	}
	had := slices.DeleteFunc(slices.Clone(selector.GetPrefetchSecretNames()), func(name string) bool { return !has(name) })
	if len(had) == len(selector.GetPrefetchSecretNames()) {
		return r, nil
	}
	selector.PrefetchSecretNames = had
	if config.TypedConfig, err = anypb.New(&selector); err != nil {
		return nil, fmt.Errorf("cluster %s: %w", r.Name, err)
	}
	if err := cluster.GetTransportSocket().GetTypedConfig().MarshalFrom(&tls); err != nil {
		return nil, fmt.Errorf("cluster %s: %w", r.Name, err)
	}
	return newResource(translator.Cluster, r.Name, &cluster, nil)
}
