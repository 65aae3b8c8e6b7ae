package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/wattle-mesh/wattle/translator"
)

// The names of secrets. Envoy does not ask again for a name that a listener holds already, so a certificate has
// one name for inbound and another for outbound use.
const (
	inboundSecret  = "in:"  // before a SPIFFE id
	outboundSecret = "out:" // before a SPIFFE id
	ownSecret      = "out:self"
	rootsSecret    = "roots"
)

// makeSecrets makes the secrets of a proxy from the certificates that the host has.
func makeSecrets(cred *credential, leaves map[string]*leaf) (map[string]*translator.Resource, error) {
	out := map[string]*translator.Resource{}
	add := func(s *translator.Resource, err error) error {
		if err == nil {
			out[s.Name] = s
		}
		return err
	}
	key, err := keyPEM(cred.signer())
	if err != nil {
		return nil, err
	}
	errs := []error{
		add(trustSecret(certsPEM(cred.roots.der))),
		add(certificateSecret(ownSecret, certsPEM(cred.cert.Certificate), key)),
	}
	for id, l := range leaves {
		errs = append(errs, add(certificateSecret(inboundSecret+id, l.chain, l.key)), add(certificateSecret(outboundSecret+id, l.chain, l.key)))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("secrets: %w", err)
	}
	return out, nil
}

// certificateSecret makes the secret of a certificate with its key. Its version has nothing of the key.
func certificateSecret(name string, chain, key []byte) (*translator.Resource, error) {
	return newResource(translator.Secret, name, &tlsv3.Secret{
		Name: name,
		Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
			CertificateChain: inline(chain),
			PrivateKey:       inline(key),
		}},
	}, chain)
}

// trustSecret makes the secret of the roots to trust.
func trustSecret(roots []byte) (*translator.Resource, error) {
	return newResource(translator.Secret, rootsSecret, &tlsv3.Secret{
		Name: rootsSecret,
		Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{TrustedCa: inline(roots)}},
	}, roots)
}

func inline(b []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
}

// newResource encodes a resource that is made on this host. Its version is a hash of content, or of the encoded
// message if content is nil.
func newResource(t translator.Type, name string, m proto.Message, content []byte) (*translator.Resource, error) {
	body := new(anypb.Any)
	if err := anypb.MarshalFrom(body, m, proto.MarshalOptions{Deterministic: true}); err != nil {
		return nil, fmt.Errorf("%s %s: %w", t, name, err)
	}
	if content == nil {
		content = body.GetValue()
	}
	sum := sha256.Sum256(content)
	version := hex.EncodeToString(sum[:8])
	wire, err := proto.MarshalOptions{Deterministic: true}.Marshal(&discoveryv3.Resource{Name: name, Version: version, Resource: body})
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", t, name, err)
	}
	return &translator.Resource{Key: translator.Key{Type: t, Name: name}, Version: version, Wire: wire}, nil
}
