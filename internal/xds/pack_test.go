package xds

import (
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/wattle-mesh/wattle/translator"
)

func packed(t *testing.T, typeURL, name, version string) []byte {
	t.Helper()
	wire, err := proto.Marshal(&discoveryv3.Resource{Name: name, Version: version, Resource: &anypb.Any{TypeUrl: typeURL, Value: []byte(name)}})
	if err != nil {
		t.Fatal(err)
	}
	return wire
}

func TestWhatIsPackedIsUnpacked(t *testing.T) {
	var want []*translator.Resource
	for _, typ := range []translator.Type{translator.Cluster, translator.Listener, translator.HostPlan} {
		want = append(want, &translator.Resource{Key: translator.Key{Type: typ, Name: "a/" + typ.String()}, Version: "1", Wire: packed(t, typ.URL(), "a/"+typ.String(), "1")})
	}
	stamp := Stamp{"s1", 3, 7}
	p, err := Unpack(Pack("h1", stamp, want))
	id, got := p.ID, p.Resources
	if p.Stamp != stamp {
		t.Errorf("the stamp is %v", p.Stamp)
	}
	if err != nil || id != "h1" || !cmp.Equal(got, want) {
		t.Errorf("%q, %v, %v", id, got, err)
	}
	if p, err := Unpack(Pack("h1", Stamp{}, nil)); err != nil || p.ID != "h1" || p.Resources != nil || p.Stamp != (Stamp{}) {
		t.Errorf("%q, %v, %v", id, got, err)
	}
}

func TestWhatWasNotPackedIsAnError(t *testing.T) {
	for name, text := range map[string][]byte{
		"cut off":         Pack("h1", Stamp{}, []*translator.Resource{{Wire: packed(t, translator.Cluster.URL(), "a", "1")}})[:20],
		"another type":    Pack("h1", Stamp{}, []*translator.Resource{{Wire: packed(t, "type.googleapis.com/google.protobuf.Empty", "a", "1")}}),
		"no resource":     Pack("h1", Stamp{}, []*translator.Resource{{Wire: []byte("no")}}),
		"nothing like it": []byte("\xff\xff"),
	} {
		if _, err := Unpack(text); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
