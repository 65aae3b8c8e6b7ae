package agent

import (
	"slices"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	ondemandv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/cert_selectors/on_demand_secret/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/wattle-mesh/wattle/internal/xds"
	"github.com/wattle-mesh/wattle/translator"
)

// prefetcher is a cluster that fetches these secrets.
func prefetcher(t *testing.T, names ...string) *translator.Resource {
	t.Helper()
	pack := func(m proto.Message) *anypb.Any {
		out, err := anypb.New(m)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	selector := &corev3.TypedExtensionConfig{Name: "on_demand", TypedConfig: pack(&ondemandv3.Config{PrefetchSecretNames: names})}
	tls := &tlsv3.UpstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{CustomTlsCertificateSelector: selector}}
	r, err := newResource(translator.Cluster, translator.CertsCluster, &clusterv3.Cluster{
		Name:            translator.CertsCluster,
		TransportSocket: &corev3.TransportSocket{Name: "tls", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: pack(tls)}},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestASecretIsFetchedAheadOnceItIsThere(t *testing.T) {
	all := prefetcher(t, "out:self", "out:spiffe://x/ns/default/svc/late")
	some := prefetcher(t, "out:self")
	tb := newTable([]string{"h1/host"})
	secrets := func(names ...string) map[string]*translator.Resource {
		out := map[string]*translator.Resource{}
		for _, name := range names {
			s, err := certificateSecret(name, []byte("chain"), []byte("key"))
			if err != nil {
				t.Fatal(err)
			}
			out[name] = s
		}
		return out
	}
	served := func(want *translator.Resource) {
		t.Helper()
		got := tb.served[prefetchKey]
		if got == nil || !slices.Equal(got.Wire, want.Wire) {
			t.Errorf("served: %v, want %v", got, want)
		}
	}
	if _, err := tb.setSecrets(secrets("out:self")); err != nil {
		t.Fatal(err)
	}
	if _, err := tb.receive(&xds.Response{Resources: []*translator.Resource{all}}); err != nil {
		t.Fatal(err)
	}
	served(some)
	if _, err := tb.setSecrets(secrets("out:self", "out:spiffe://x/ns/default/svc/late")); err != nil {
		t.Fatal(err)
	}
	served(all)
}
