package spiffe

import (
	"strings"
	"testing"
)

func TestParseReadsWhatStringWrites(t *testing.T) {
	for _, id := range []ID{
		ForService("corp.example", "shop", "reviews"), ForGateway("corp.example", "default", "public"),
		ForNode("corp.example", "h1"), ForServer("corp.example"),
	} {
		if err := id.Check(); err != nil {
			t.Errorf("%s: %v", id, err)
		}
		if got, err := Parse(id.String()); err != nil || got != id {
			t.Errorf("Parse(%s) = %+v, %v", id, got, err)
		}
	}
}

func TestParseRefusesWhatIsNoIdentity(t *testing.T) {
	for _, s := range []string{
		"", "h1", "https://corp.example/node/h1", "spiffe:///node/h1", "spiffe://corp.example", "spiffe://corp.example/",
		"spiffe://corp.example/node", "spiffe://corp.example/node/", "spiffe://corp.example/node/h1/", "spiffe://corp.example/node/H1",
		"spiffe://corp.example/node/h1.", "spiffe://corp.example/node/a.b", "spiffe://corp.example/node/h_1", "spiffe://corp.example/node/-h1",
		"spiffe://corp.example/node/*", "spiffe://corp.example/node/h1?x=y", "spiffe://corp.example/node/h1#x", "spiffe://corp.example/node/%68",
		"spiffe://corp.example/ns/shop/svc/a/b", "spiffe://corp.example/ns/../svc/a", "spiffe://corp.example/ns//svc/a", "spiffe://corp.example/ns/a/b/c",
		"spiffe://corp.example:80/node/h1", "spiffe://user@corp.example/node/h1", "spiffe://corp.example/server/x",
		"spiffe://corp.example/node/" + strings.Repeat("a", 64), "spiffe://corp.example/node/" + strings.Repeat("a", 5000),
	} {
		if id, err := Parse(s); err == nil {
			t.Errorf("Parse(%q) = %+v", clip(s), id)
		} else if len(err.Error()) > 400 {
			t.Errorf("Parse(%q): an error of %d bytes", clip(s), len(err.Error()))
		}
	}
}

func TestCheckRefusesParts(t *testing.T) {
	for name, id := range map[string]ID{
		"the zero id": {}, "no kind": {TrustDomain: "corp.example"}, "an unknown kind": {TrustDomain: "corp.example", Kind: "x", Name: "a"},
		"a trust domain with a slash": ForNode("corp.example/x", "h1"), "an upper-case trust domain": ForServer("Corp.example"),
		"no trust domain": ForServer(""), "a slash in a name": ForService("corp.example", "shop", "a/b"),
		"no namespace": ForGateway("corp.example", "", "public"), "a trust domain with a scheme": ForServer("spiffe://corp.example"),
	} {
		if id.Check() == nil {
			t.Errorf("%s is accepted: %s", name, id)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("spiffe://corp.example/ns/shop/svc/reviews")
	f.Add("spiffe://corp.example/node/h1")
	f.Fuzz(func(t *testing.T, s string) {
		if id, err := Parse(s); err == nil && id.String() != s {
			t.Errorf("Parse(%q).String() = %q", s, id)
		}
	})
}
