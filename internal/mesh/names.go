package mesh

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"

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

// hostProxy is the name of the proxy that serves the workloads of a host that have none of their own.
const hostProxy = "host"

// hostProxyID returns "h1/host".
func hostProxyID(host string) string { return proxyID(host, hostProxy) }

// proxyID returns "h1/web".
func proxyID(host, name string) string { return host + "/" + name }

// maxSidecarName is how long the name of a sidecar may be. The unit's user is called like it, after "wattle-envoy-", and a
// user's name has 31 characters at most.
const maxSidecarName = 18

// plainInstance matches instances that a sidecar may be called by. Names of services have no underscores.
var plainInstance = regexp.MustCompile(`^[a-z0-9-]*[a-z0-9]$`)

// sidecarName is what the proxy of a workload's own is called: "web", "web_a" for instance a, "web__shop" in the namespace
// shop. What would be no name of a user, a unit and a file, or another proxy's, ends in a hash instead.
func sidecarName(w *registry.Workload) string {
	name, plain := w.Service.Name, !strings.HasPrefix(w.Service.Name, "gw-")
	if w.Instance != "" || w.Service.Namespace != defaultNamespace {
		name += "_" + w.Instance
		plain = plain && (w.Instance == "" || plainInstance.MatchString(w.Instance))
	}
	if w.Service.Namespace != defaultNamespace {
		name += "_" + w.Service.Namespace
	}
	if plain && name != hostProxy && len(name) <= maxSidecarName {
		return name
	}
	sum := sha256.Sum256([]byte(w.Service.String() + "/" + w.Instance))
	return "x_" + hex.EncodeToString(sum[:])[:maxSidecarName-2]
}

// proxyOf is the name of the proxy that a workload is to be served by.
func proxyOf(w *registry.Workload) string {
	if w.Sidecar {
		return sidecarName(w)
	}
	return hostProxy
}

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
