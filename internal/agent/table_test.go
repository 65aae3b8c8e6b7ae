package agent

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"pgregory.net/rapid"

	"github.com/wattle-mesh/wattle/internal/xds"
	"github.com/wattle-mesh/wattle/translator"
)

// listenerFor makes a listener with a filter chain for each identity.
func listenerFor(t testing.TB, name string, ids ...string) *translator.Resource {
	t.Helper()
	l := &listenerv3.Listener{Name: name}
	for _, id := range ids {
		config, err := anypb.New(&tlsv3.DownstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{
			TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{{Name: inboundSecret + id}},
		}})
		if err != nil {
			t.Fatal(err)
		}
		l.FilterChains = append(l.FilterChains, &listenerv3.FilterChain{
			Name: id, TransportSocket: &corev3.TransportSocket{Name: "tls", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: config}},
		})
	}
	r, err := newResource(translator.Listener, name, l, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func secretsFor(t testing.TB, ids ...string) map[string]*translator.Resource {
	t.Helper()
	out := map[string]*translator.Resource{}
	for _, id := range ids {
		s, err := certificateSecret(inboundSecret+id, []byte("chain of "+id), []byte("key"))
		if err != nil {
			t.Fatal(err)
		}
		out[s.Name] = s
	}
	return out
}

// mirror applies changes as a local server does, and says what it then serves: listeners with their chains.
type mirror map[translator.Key]*translator.Resource

func (m mirror) apply(t testing.TB, c translator.Changes) {
	t.Helper()
	for _, r := range c.Resources {
		m[r.Key] = r
	}
	for _, k := range c.Removed {
		if m[k] == nil {
			t.Errorf("%v is removed and was not there", k)
		}
		delete(m, k)
	}
	for _, s := range c.Scopes {
		if len(s.Keys) != len(m) || !slices.IsSortedFunc(s.Keys, compareKeys) {
			t.Errorf("the scope has %v, %d resources are there", s.Keys, len(m))
		}
	}
}

func (m mirror) String() string {
	var out []string
	for k, r := range m {
		if k.Type != translator.Listener {
			continue
		}
		var wire discoveryv3.Resource
		var l listenerv3.Listener
		if err := proto.Unmarshal(r.Wire, &wire); err != nil {
			return err.Error()
		}
		if err := wire.GetResource().UnmarshalTo(&l); err != nil {
			return err.Error()
		}
		if wire.GetVersion() != r.Version || wire.GetName() != r.Name {
			return fmt.Sprintf("%v says %s %s", k, wire.GetName(), wire.GetVersion())
		}
		text := k.Name
		for _, c := range l.GetFilterChains() {
			text += " " + strings.TrimPrefix(c.GetName(), "spiffe://")
		}
		out = append(out, text)
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

func TestAFilterChainIsServedOnceItsSecretIsThere(t *testing.T) {
	const a, b = "spiffe://a", "spiffe://b"
	table, m := newTable([]string{"h1/host"}), mirror{}
	step := func(c translator.Changes, err error) string {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
		m.apply(t, c)
		return m.String()
	}
	whole := listenerFor(t, "in:7443", a, b)
	plain := listenerFor(t, "out/x")
	if got := step(table.receive(&xds.Response{Type: translator.Listener, Resources: []*translator.Resource{whole, plain}})); got != "out/x" {
		t.Errorf("without secrets %q is served", got)
	}
	if got := step(table.setSecrets(secretsFor(t, b))); got != "in:7443 b, out/x" {
		t.Errorf("with one %q is served", got)
	}
	part := m[whole.Key].Version
	if got := step(table.setSecrets(secretsFor(t, a, b))); got != "in:7443 a b, out/x" || m[whole.Key] != whole {
		t.Errorf("with both %q is served; it should be what the server sent, byte for byte", got)
	}
	if got := step(table.setSecrets(secretsFor(t, b))); got != "in:7443 b, out/x" || m[whole.Key].Version != part {
		t.Errorf("with one again %q is served, in version %s instead of %s", got, m[whole.Key].Version, part)
	}
	if got := step(table.receive(&xds.Response{Type: translator.Listener, Resources: []*translator.Resource{listenerFor(t, "in:7443", a)}})); got != "out/x" {
		t.Errorf("with a listener whose only secret is missing %q is served", got)
	}
	if got := step(table.receive(&xds.Response{Type: translator.Listener, Removed: []string{"in:7443", "never"}})); got != "out/x" {
		t.Errorf("after its removal %q is served", got)
	}
	if c, err := table.setSecrets(secretsFor(t, b)); err != nil || !c.Empty() {
		t.Errorf("equal secrets change %v, %v", c, err)
	}
}

func TestAListenerThatCannotBeReadIsRefusedAndTheOthersAreServed(t *testing.T) {
	table, m := newTable([]string{"h1/host"}), mirror{}
	broken := &translator.Resource{Key: translator.Key{Type: translator.Listener, Name: "in:7443"}, Version: "1", Wire: []byte("in:spiffe://a")}
	c, err := table.receive(&xds.Response{Type: translator.Listener, Resources: []*translator.Resource{broken, listenerFor(t, "out/x")}})
	if err == nil || !strings.Contains(err.Error(), "in:7443") {
		t.Error(err)
	}
	if m.apply(t, c); m.String() != "out/x" {
		t.Errorf("%q is served", m)
	}
}

// Whatever comes in whatever order: what is served depends only on what was received last and on the secrets.
func TestWhatIsServedDoesNotDependOnTheOrder(t *testing.T) {
	ids := []string{"spiffe://a", "spiffe://b", "spiffe://c"}
	rapid.Check(t, func(r *rapid.T) {
		table, m := newTable([]string{"h1/host"}), mirror{}
		var listener *translator.Resource
		secrets := map[string]*translator.Resource{}
		for range rapid.IntRange(1, 12).Draw(r, "steps") {
			some := rapid.SliceOfNDistinct(rapid.SampledFrom(ids), 0, 3, rapid.ID).Draw(r, "ids")
			var c translator.Changes
			var err error
			switch rapid.IntRange(0, 2).Draw(r, "step") {
			case 0:
				listener = listenerFor(t, "in:7443", some...)
				c, err = table.receive(&xds.Response{Type: translator.Listener, Resources: []*translator.Resource{listener}})
			case 1:
				listener = nil
				c, err = table.receive(&xds.Response{Type: translator.Listener, Removed: []string{"in:7443"}})
			default:
				secrets = secretsFor(t, some...)
				c, err = table.setSecrets(secrets)
			}
			if err != nil {
				r.Fatal(err)
			}
			m.apply(t, c)
		}
		fresh, want := newTable([]string{"h1/host"}), mirror{}
		c, _ := fresh.setSecrets(secrets)
		want.apply(t, c)
		if listener != nil {
			c, _ = fresh.receive(&xds.Response{Type: translator.Listener, Resources: []*translator.Resource{listener}})
			want.apply(t, c)
		}
		if m.String() != want.String() {
			r.Fatalf("%q is served, from scratch it would be %q", m, want)
		}
	})
}
