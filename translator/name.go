package translator

import (
	"fmt"
	"strconv"

	"github.com/wattle-mesh/wattle/internal/mesh"
	"github.com/wattle-mesh/wattle/registry"
)

// Names that are the same on every proxy.
const (
	passedCluster = "passthrough"          // leads to where a redirected connection was sent
	selfSecret    = "out:self"             // the host's own certificate, for what Envoy sends by itself
	RootsSecret   = "roots"                // what to trust
	tcpALPN       = "wattle-tcp"           // offered on mesh connections that carry bytes
	unprocessed   = "x-wattle-unprocessed" // response header: the application has not seen the request
	mtlsMatch     = "wattle_mtls"          // endpoint metadata: over the mesh port
)

// InSecret names the certificate that a workload's inbound chains present.
func InSecret(identity string) string { return "in:" + identity }

// OutSecret names the certificate that a caller's connections present. It differs from the inbound one: Envoy does
// not ask again on the same stream for a name that a listener holds.
func OutSecret(identity string) string { return "out:" + identity }

// SelfSecret names the host's own certificate.
func SelfSecret() string { return selfSecret }

// portName returns "reviews.default:9080".
func portName(n registry.Name, port uint16) string {
	return n.Name + "." + n.Namespace + ":" + strconv.Itoa(int(port))
}

// clusterName returns "reviews.default:9080" or "reviews.default:9080|v1".
func clusterName(r mesh.ClusterRef) string {
	s := portName(r.Service, r.Port)
	if r.Subset != "" {
		s += "|" + r.Subset
	}
	return s
}

// EndpointsNames lists the resources with the endpoints of a cluster: all callers', and each variant's.
func EndpointsNames(v *mesh.View, r mesh.ClusterRef) []string {
	out := []string{clusterName(r)}
	for _, variant := range v.Variants() {
		out = append(out, variantOf(out[0], variant))
	}
	return out
}

// UpstreamNames lists the listeners of the workloads that call through a proxy.
func UpstreamNames(px *mesh.Proxy) []string {
	var out []string
	for _, s := range px.Scopes {
		for _, u := range s.Upstreams {
			out = append(out, variantOf(outListener(s.Service, u), s.Variant))
		}
	}
	return out
}

// InListenerName is the name of the listener at a mesh port.
func InListenerName(port uint16) string { return inListener(port) }

// variantOf names the variant of a cluster, listener or route configuration that only one workload's calls use: "reviews.default:9080~1a2b3c4d".
// What all share has none.
func variantOf(name, variant string) string {
	if variant == "" {
		return name
	}
	return name + "~" + variant
}

// missingCluster names a cluster that does not exist.
func missingCluster(r mesh.ClusterRef) string { return "missing/" + clusterName(r) }

// sni is the server name on mesh connections to a service's port: "9080.reviews.default.mesh".
func sni(n registry.Name, port uint16, domain string) string {
	return fmt.Sprintf("%d.%s.%s.%s", port, n.Name, n.Namespace, domain)
}

// inListener returns "in:7443".
func inListener(port uint16) string { return "in:" + strconv.Itoa(int(port)) }

// localCluster returns "in/default/reviews:9080" or, with an instance, "in/default/reviews/b:9080".
func localCluster(w *mesh.Workload, port uint16) string {
	s := "in/" + w.Service.String()
	if w.Instance != "" {
		s += "/" + w.Instance
	}
	return s + ":" + strconv.Itoa(int(port))
}

// outListener returns "out/default/productpage/reviews.default:9080@127.0.0.1:9081".
func outListener(caller registry.Name, u *mesh.ScopeUpstream) string {
	at := u.Socket
	if at == "" {
		at = u.Bind.String()
	}
	return "out/" + caller.String() + "/" + portName(u.Service, u.Port) + "@" + at
}

// Scope names.
func portScope(n registry.Name, port uint16) string {
	return "svc/" + n.String() + ":" + strconv.Itoa(int(port))
}
func reachScope(key string) string  { return "reach/" + key }
func callerScope(key string) string { return "caller/" + key }
func proxyScope(id string) string   { return "proxy/" + id }
