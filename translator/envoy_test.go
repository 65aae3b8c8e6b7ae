package translator_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/wattle-mesh/wattle/translator"
)

// TestEnvoyTakesEveryGoldenCase gives the resources of each golden file, proxy by proxy, to a real Envoy that validates
// its configuration and ends. Endpoints and routes, which only come over xDS, stand in clusters and listeners for that.
func TestEnvoyTakesEveryGoldenCase(t *testing.T) {
	envoy := findEnvoy(t)
	for file, archive := range goldens(t) {
		out := translate(t, view(t, archive))
		for id := range proxies(out) {
			t.Run(file+"/"+id, func(t *testing.T) {
				config := filepath.Join(t.TempDir(), "envoy.json")
				write(t, config, withoutStream(t, staticBootstrap(t, out.Resources(id))))
				cmd := exec.Command(envoy, "--mode", "validate", "-c", config, "--log-level", "warning", "--concurrency", "1")
				if said, err := cmd.CombinedOutput(); err != nil || bytes.Contains(said, []byte("deprecated")) {
					t.Errorf("envoy: %v\n%s", err, said)
				}
			})
		}
	}
}

// withoutStream writes a bootstrap as JSON, with an empty file where it says ADS: an Envoy that only validates has no
// stream, and crashes on secrets that would come on it.
func withoutStream(t testing.TB, b *bootstrapv3.Bootstrap) []byte {
	t.Helper()
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(t.TempDir(), "secrets.json")
	write(t, empty, []byte(`{"resources":[]}`))
	file, err := json.Marshal(map[string]string{"path": empty})
	if err != nil {
		t.Fatal(err)
	}
	return regexp.MustCompile(`"ads":\s*\{\}`).ReplaceAll(text, append([]byte(`"path_config_source":`), file...))
}

func write(t testing.TB, file string, data []byte) {
	t.Helper()
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func findEnvoy(t testing.TB) string {
	t.Helper()
	path := os.Getenv("ENVOY")
	if path == "" {
		path = filepath.Join("..", ".bin", "envoy")
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("no Envoy: %v; make tools fetches it, or set ENVOY", err)
	}
	return path
}

// staticBootstrap puts the resources of a proxy into a bootstrap.
func staticBootstrap(t testing.TB, all []*translator.Resource) *bootstrapv3.Bootstrap {
	t.Helper()
	static := &bootstrapv3.Bootstrap_StaticResources{}
	routes := map[string]*routev3.RouteConfiguration{}
	endpoints := map[string]*endpointv3.ClusterLoadAssignment{}
	for _, r := range all {
		switch m := decode(t, r).(type) {
		case *clusterv3.Cluster:
			static.Clusters = append(static.Clusters, m)
		case *listenerv3.Listener:
			static.Listeners = append(static.Listeners, m)
		case *routev3.RouteConfiguration:
			routes[m.Name] = m
		case *endpointv3.ClusterLoadAssignment:
			endpoints[m.ClusterName] = m
		}
	}
	for _, c := range static.Clusters {
		if c.EdsClusterConfig != nil {
			c.EdsClusterConfig = nil
			c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}
			if c.LoadAssignment = endpoints[c.Name]; c.LoadAssignment == nil {
				t.Errorf("cluster %s has no endpoints resource", c.Name)
			}
		}
	}
	for _, l := range static.Listeners {
		inline(t, l, routes)
	}
	return &bootstrapv3.Bootstrap{
		Node:            &corev3.Node{Id: "test", Cluster: "test"},
		StaticResources: static,
	}
}

// inline puts route configurations where connection managers would ask for them.
func inline(t testing.TB, l *listenerv3.Listener, routes map[string]*routev3.RouteConfiguration) {
	t.Helper()
	for _, chain := range l.FilterChains {
		for _, f := range chain.Filters {
			var m hcmv3.HttpConnectionManager
			if !f.GetTypedConfig().MessageIs(&m) {
				continue
			}
			if err := f.GetTypedConfig().UnmarshalTo(&m); err != nil {
				t.Fatal(err)
			}
			if m.GetRds() == nil {
				continue
			}
			rc := routes[m.GetRds().GetRouteConfigName()]
			if rc == nil {
				t.Errorf("listener %s: no route configuration %s", l.Name, m.GetRds().GetRouteConfigName())
				continue
			}
			m.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: rc}
			packed, err := anypb.New(&m)
			if err != nil {
				t.Fatal(err)
			}
			f.ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: packed}
		}
	}
}

func decode(t testing.TB, r *translator.Resource) proto.Message {
	t.Helper()
	m, err := translator.Decode(r)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(m.ProtoReflect().Descriptor().FullName()); !strings.HasSuffix(r.Type.URL(), "/"+got) {
		t.Errorf("%s %s is a %s", r.Type, r.Name, got)
	}
	return m
}
