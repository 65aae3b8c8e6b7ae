package translator

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	mapperv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/cert_mappers/filter_state_override/v3"
	ondemandv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/cert_selectors/on_demand_secret/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// tls13 is all that Wattle's proxies speak to each other.
func tls13() *tlsv3.TlsParameters {
	return &tlsv3.TlsParameters{
		TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
		TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
	}
}

// peers trusts the mesh's roots for certificates whose URI name matches one of san.
func peers(san ...*matcherv3.StringMatcher) *tlsv3.CommonTlsContext_CombinedValidationContext {
	matchers := make([]*tlsv3.SubjectAltNameMatcher, len(san))
	for i, m := range san {
		matchers[i] = &tlsv3.SubjectAltNameMatcher{SanType: tlsv3.SubjectAltNameMatcher_URI, Matcher: m}
	}
	return &tlsv3.CommonTlsContext_CombinedValidationContext{
		CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
			DefaultValidationContext:         &tlsv3.CertificateValidationContext{MatchTypedSubjectAltNames: matchers},
			ValidationContextSdsSecretConfig: &tlsv3.SdsSecretConfig{Name: RootsSecret, SdsConfig: ads()},
		},
	}
}

// callerCertificate picks the certificate of a connection by the filter state that the caller's listener set. prefetch
// lists secrets to fetch at once.
func (p *packer) callerCertificate(prefetch []string) *corev3.TypedExtensionConfig {
	return p.extension("envoy.tls.certificate_selectors.on_demand_secret", &ondemandv3.Config{
		ConfigSource: ads(),
		CertificateMapper: p.extension("envoy.tls.upstream_certificate_mappers.filter_state_override",
			&mapperv3.Config{DefaultValue: selfSecret}),
		PrefetchSecretNames: prefetch,
	})
}

// upstreamTLS calls mesh endpoints: they must have one of the identities. Without any, no endpoint is believed: Envoy
// would take no names as all names.
func (p *packer) upstreamTLS(serverName string, identities, prefetch []string) *corev3.TransportSocket {
	if len(identities) == 0 {
		identities = []string{""}
	}
	san := make([]*matcherv3.StringMatcher, len(identities))
	for i, id := range identities {
		san[i] = exactly(id)
	}
	return &corev3.TransportSocket{
		Name: "envoy.transport_sockets.tls",
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: p.any(&tlsv3.UpstreamTlsContext{
			Sni:         serverName,
			AutoHostSni: len(identities) > 1, // an endpoint with another service's identity is called as that service
			CommonTlsContext: &tlsv3.CommonTlsContext{
				TlsParams:                    tls13(),
				CustomTlsCertificateSelector: p.callerCertificate(prefetch),
				ValidationContextType:        peers(san...),
			},
		})},
	}
}

// downstreamTLS admits callers that show a workload's or gateway's certificate of the trust domain. Nodes have no
// business at applications.
func (p *packer) downstreamTLS(identity, trustDomain string, alpn []string) *corev3.TransportSocket {
	callers := &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: "spiffe://" + trustDomain + "/ns/"}}
	return &corev3.TransportSocket{
		Name: "envoy.transport_sockets.tls",
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: p.any(&tlsv3.DownstreamTlsContext{
			RequireClientCertificate: wrapperspb.Bool(true),
			CommonTlsContext: &tlsv3.CommonTlsContext{
				TlsParams:                      tls13(),
				AlpnProtocols:                  alpn,
				TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{{Name: InSecret(identity), SdsConfig: ads()}},
				ValidationContextType:          peers(callers),
			},
		})},
	}
}
