// Package spiffe names identities: who a certificate speaks for, as a SPIFFE ID of the mesh's trust domain.
package spiffe

import (
	"crypto/x509"
	"fmt"
	"regexp"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// Kind says what an identity is for.
type Kind string

// The kinds of identity.
const (
	Service Kind = "service" // spiffe://td/ns/<namespace>/svc/<name>
	Gateway Kind = "gateway" // spiffe://td/ns/<namespace>/gateway/<name>
	Node    Kind = "node"    // spiffe://td/node/<name>
	Server  Kind = "server"  // spiffe://td/server: the control plane
)

// ID is a parsed identity. The zero value is none.
type ID struct {
	TrustDomain string
	Kind        Kind
	Namespace   string // of a service or gateway
	Name        string // of a service, gateway or node
}

// label is what may stand in an identity, and so a name of a namespace, service, gateway or host: a label of DNS
// (RFC 1123), so that the names are safe in host names, paths and logs, and no two of them look alike.
var label = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// CheckName reports what is wrong with a name of a namespace, service, gateway or host.
func CheckName(name string) error {
	if !label.MatchString(name) {
		return fmt.Errorf("the name %q is not made of lower-case letters, digits and hyphens, at most 63, with a letter or digit at both ends", clip(name))
	}
	return nil
}

// clip shortens what goes into an error.
func clip(s string) string {
	if len(s) > 100 {
		return s[:100] + "..."
	}
	return s
}

// CheckTrustDomain reports what is wrong with the name of a trust domain.
func CheckTrustDomain(td string) error {
	parsed, err := spiffeid.TrustDomainFromString(td)
	if err != nil {
		return fmt.Errorf("trust domain %q: %w", clip(td), err)
	}
	if parsed.Name() != td {
		return fmt.Errorf("trust domain %q: write it as %q", clip(td), parsed.Name())
	}
	return nil
}

// ForService returns the identity of a service's workloads.
func ForService(td, namespace, name string) ID { return ID{td, Service, namespace, name} }

// ForGateway returns the identity of a gateway.
func ForGateway(td, namespace, name string) ID { return ID{td, Gateway, namespace, name} }

// ForNode returns the identity of a host.
func ForNode(td, name string) ID { return ID{TrustDomain: td, Kind: Node, Name: name} }

// ForServer returns the identity of the control plane.
func ForServer(td string) ID { return ID{TrustDomain: td, Kind: Server} }

// String returns the SPIFFE ID.
func (id ID) String() string { return "spiffe://" + id.TrustDomain + id.path() }

func (id ID) path() string {
	switch id.Kind {
	case Service:
		return "/ns/" + id.Namespace + "/svc/" + id.Name
	case Gateway:
		return "/ns/" + id.Namespace + "/gateway/" + id.Name
	case Node:
		return "/node/" + id.Name
	case Server:
		return "/server"
	default:
		return ""
	}
}

// Parse reads a SPIFFE ID of one of the kinds.
func Parse(s string) (ID, error) {
	parsed, err := spiffeid.FromString(s)
	if err != nil {
		return ID{}, fmt.Errorf("identity %q: %w", clip(s), err)
	}
	id := ID{TrustDomain: parsed.TrustDomain().Name()}
	switch p := strings.Split(strings.TrimPrefix(parsed.Path(), "/"), "/"); {
	case len(p) == 4 && p[0] == "ns" && p[2] == "svc":
		id.Kind, id.Namespace, id.Name = Service, p[1], p[3]
	case len(p) == 4 && p[0] == "ns" && p[2] == "gateway":
		id.Kind, id.Namespace, id.Name = Gateway, p[1], p[3]
	case len(p) == 2 && p[0] == "node":
		id.Kind, id.Name = Node, p[1]
	case len(p) == 1 && p[0] == "server":
		id.Kind = Server
	default:
		return ID{}, fmt.Errorf("identity %q: not a service's, a gateway's, a node's or the server's", clip(s))
	}
	return id, id.Check()
}

// Check reports what is wrong with the id's parts.
func (id ID) Check() error {
	if err := CheckTrustDomain(id.TrustDomain); err != nil {
		return fmt.Errorf("identity: %w", err)
	}
	switch id.Kind {
	case Server:
		return nil
	case Service, Gateway, Node:
	default:
		return fmt.Errorf("identity of the unknown kind %q", id.Kind)
	}
	if err := CheckName(id.Name); err != nil {
		return fmt.Errorf("identity of a %s: %w", id.Kind, err)
	}
	if id.Kind == Node {
		return nil
	}
	if err := CheckName(id.Namespace); err != nil {
		return fmt.Errorf("identity of a %s: namespace: %w", id.Kind, err)
	}
	return nil
}

// FromCertificate returns the identity that a leaf certificate speaks for. It verifies nothing else.
func FromCertificate(leaf *x509.Certificate) (ID, error) {
	parsed, err := x509svid.IDFromCert(leaf)
	if err != nil {
		return ID{}, fmt.Errorf("certificate: %w", err)
	}
	return Parse(parsed.String())
}

// NodeName returns the DNS name that every leaf of a node carries, so that a host can be told apart.
func NodeName(td, node string) string { return node + ".node." + td }
