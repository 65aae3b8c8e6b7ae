package mesh

import (
	"fmt"

	"github.com/wattle-mesh/wattle/internal/spiffe"
	"github.com/wattle-mesh/wattle/registry"
)

// defaultNamespace is left out of the names of gateway proxies.
const defaultNamespace = "default"

// clusterName returns "reviews.default:9080" or "reviews.default:9080|v1": the cluster's name in Envoy.
func clusterName(c ClusterRef) string {
	s := portName(c.Service, c.Port)
	if c.Subset != "" {
		s += "|" + c.Subset
	}
	return s
}

// portName returns "reviews.default:9080".
func portName(n registry.Name, port uint16) string {
	return fmt.Sprintf("%s.%s:%d", n.Name, n.Namespace, port)
}

// hostProxyID returns "h1/host".
func hostProxyID(host string) string { return host + "/host" }

// gatewayProxyID returns "edge/gw-public", or "edge/gw-shop.public" outside the default namespace.
func gatewayProxyID(host, namespace, name string) string {
	if namespace != defaultNamespace {
		name = namespace + "." + name
	}
	return host + "/gw-" + name
}

// gatewayRouteName returns "gw/default/public/http".
func gatewayRouteName(gateway registry.Name, server string) string {
	return "gw/" + gateway.String() + "/" + server
}

// identity is the SPIFFE id of a service's workloads.
func (r *resolver) identity(n registry.Name) string {
	return spiffe.ForService(r.pol.Mesh.TrustDomain, n.Namespace, n.Name).String()
}

// gatewayIdentity is the SPIFFE id of a gateway.
func (r *resolver) gatewayIdentity(n registry.Name) string {
	return spiffe.ForGateway(r.pol.Mesh.TrustDomain, n.Namespace, n.Name).String()
}
