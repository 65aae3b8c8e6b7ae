package capture

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	netspace "github.com/wattle-mesh/wattle/test/space"
)

// The users of the tests.
const (
	proxies = 4200 // group
	web     = 4201
	shop    = 4202
	other   = 4203
)

var (
	asWeb   = who{uid: web, gid: web}
	asShop  = who{uid: shop, gid: shop}
	asOther = who{uid: other, gid: other}
	asProxy = who{uid: web, gid: proxies}
	asEnvoy = who{uid: 4204, gid: proxies}
	asRoot  = who{}
)

// pair is a host and another one beside it.
func pair(t *testing.T) (host, beside *space) {
	host, beside = newSpace(t), newSpace(t)
	netspace.Join(host.Space, beside.Space, []string{"10.9.0.1/24", "fd00::1/64"}, []string{"10.9.0.2/24", "10.9.0.3/24", "fd00::2/64"})
	host.serve("proxy of web", "127.0.0.1:15001", "[::1]:15001")
	host.serve("proxy of shop", "127.0.0.1:15002", "[::1]:15002")
	host.serve("application", "[::]:8080")
	host.serve("slice of web", "127.64.1.0:53", "127.64.1.1:80")
	host.serve("upstream of web", "127.0.0.1:9081")
	beside.serve("beside", "10.9.0.2:80", "10.9.0.3:80", "10.9.0.2:443", "[fd00::2]:80")
	return host, beside
}

func prefixes(all ...string) (out []netip.Prefix) {
	for _, p := range all {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

// try is a call and who should answer it.
type try struct {
	from    *space
	who     who
	network string
	to      string
	want    string
}

func check(t *testing.T, all []try) {
	t.Helper()
	for _, c := range all {
		if got := c.from.calls(c.who, c.network, c.to); got != c.want {
			t.Errorf("uid %d gid %d to %s %s: %q, want %q", c.who.uid, c.who.gid, c.network, c.to, got, c.want)
		}
	}
}

func TestWhatAWorkloadSendsGoesToItsProxy(t *testing.T) {
	host, _ := pair(t)
	host.replace(Rules{Exempt: proxies, Redirects: []Redirect{
		{For: "web", Owner: Owner{UIDs: []uint32{web}}, Port: 15001, ExcludeAddresses: prefixes("10.9.0.3/32"), ExcludePorts: []uint16{443}},
		{For: "shop", Owner: Owner{UIDs: []uint32{shop}}, Port: 15002},
	}})
	check(t, []try{
		{host, asWeb, "tcp", "10.9.0.2:80", "proxy of web"},
		{host, asWeb, "tcp", "[fd00::2]:80", "proxy of web"},
		{host, asWeb, "tcp", "192.0.2.1:80", "error: dial tcp 192.0.2.1:80: connect: network is unreachable"}, // no route at all
		{host, asShop, "tcp", "10.9.0.2:80", "proxy of shop"},
		{host, asShop, "tcp", "[fd00::2]:80", "proxy of shop"},
		{host, asShop, "tcp", "10.9.0.3:80", "proxy of shop"},
		{host, asWeb, "tcp", "10.9.0.3:80", "beside"},               // an address to be left alone
		{host, asWeb, "tcp", "10.9.0.2:443", "beside"},              // a port
		{host, asWeb, "udp", "10.9.0.2:80", "beside"},               // TCP only
		{host, asWeb, "tcp", "127.0.0.1:8080", "application"},       // loopback is its own
		{host, asWeb, "tcp", "[::1]:8080", "application"},           //
		{host, asWeb, "tcp", "127.64.1.1:80", "slice of web"},       //
		{host, asProxy, "tcp", "10.9.0.2:80", "beside"},             // the proxies' group, whatever the user
		{host, asOther, "tcp", "10.9.0.2:80", "beside"},             // other users
		{host, asOther, "tcp", "[fd00::2]:80", "beside"},            //
		{host, asRoot, "tcp", "10.9.0.2:80", "beside"},              //
		{host, asOther, "tcp", "127.0.0.1:15001", "proxy of web"},   // that is the guard's business
		{host, asShop, "tcp", "10.9.0.2:443", "proxy of shop"},      // an exclusion is one workload's
		{host, asShop, "tcp", "10.9.0.1:8080", "proxy of shop"},     // the host's own address is no loopback
		{host, asOther, "tcp", "10.9.0.1:8080", "application"},      //
		{host, asWeb, "tcp", "10.9.0.2:81", "proxy of web"},         // whether somebody listens there or not
		{host, asOther, "tcp", "10.9.0.2:81", "refused"},            //
		{host, asWeb, "udp", "127.64.1.0:53", "slice of web"},       //
		{host, asOther, "udp", "10.9.0.2:80", "beside"},             //
		{host, asOther, "tcp", "127.64.1.1:80", "slice of web"},     //
		{host, asOther, "tcp", "127.0.0.1:9081", "upstream of web"}, //
	})
}

func TestTheGuardLetsInWhoMay(t *testing.T) {
	host, beside := pair(t)
	mine := Owner{UIDs: []uint32{web}}
	host.replace(Rules{
		Exempt: proxies, Passed: 4,
		Doors: []Door{
			{For: "slice", To: netip.MustParsePrefix("127.64.1.0/28"), Owner: mine},
			{For: "upstream", To: netip.MustParsePrefix("127.0.0.1/32"), Port: 9081, Owner: mine},
			{For: "redirect", To: netip.MustParsePrefix("::1/128"), Port: 15001, Owner: mine},
			{For: "application", Port: 8080, Owner: mine, Also: []uint32{0, shop}},
			{For: "application", To: netip.MustParsePrefix("127.0.0.1/32"), Port: 8080, Owner: mine, Also: []uint32{0, shop}},
		},
		Closed: []Closed{{Port: 8080}, {Address: netip.MustParseAddr("10.9.0.1"), Port: 15000}},
	})
	host.serve("mesh port", "10.9.0.1:7443")
	host.serve("one address", "10.9.0.1:15000")
	host.serve("all but it", "[fd00::1]:15000")
	check(t, []try{
		{host, asWeb, "tcp", "127.64.1.1:80", "slice of web"},
		{host, asWeb, "udp", "127.64.1.0:53", "slice of web"},
		{host, asOther, "tcp", "127.64.1.1:80", "refused"},
		{host, asOther, "udp", "127.64.1.0:53", "refused"},
		{host, asRoot, "tcp", "127.64.1.1:80", "refused"}, // its identity is not root's
		{host, asShop, "tcp", "127.64.1.1:80", "refused"},
		{host, asProxy, "tcp", "127.64.1.1:80", "slice of web"},
		{host, asEnvoy, "tcp@3", "10.9.0.1:8080", "application"},
		{host, asEnvoy, "tcp@4", "10.9.0.1:8080", "refused"}, // what a proxy passes on is its workload's
		{host, asEnvoy, "tcp@4", "127.64.1.1:80", "refused"},
		{host, asEnvoy, "tcp@4", "10.9.0.2:80", "beside"},

		{host, asWeb, "tcp", "127.0.0.1:9081", "upstream of web"},
		{host, asOther, "tcp", "127.0.0.1:9081", "refused"},
		{host, asOther, "tcp", "[::1]:15001", "refused"},
		{host, asOther, "tcp", "127.0.0.1:15001", "proxy of web"}, // another place

		{host, asOther, "tcp", "127.0.0.1:8080", "refused"},
		{host, asOther, "tcp", "[::1]:8080", "application"},      // nobody said so
		{host, asOther, "tcp", "127.64.2.1:8080", "application"}, // another's slice
		{host, asOther, "tcp", "[fd00::1]:8080", "refused"},
		{host, asOther, "tcp", "10.9.0.1:8080", "refused"}, // the host's address, from the host
		{host, asProxy, "tcp", "127.0.0.1:8080", "application"},
		{host, asRoot, "tcp", "127.0.0.1:8080", "application"}, // the agent's checks
		{host, asShop, "tcp", "127.0.0.1:8080", "application"},

		{beside, asRoot, "tcp", "10.9.0.1:8080", "refused"},
		{beside, asRoot, "tcp", "10.9.0.1:7443", "mesh port"},
		{beside, asRoot, "tcp", "10.9.0.1:15000", "refused"},
		{beside, asRoot, "tcp", "[fd00::1]:15000", "all but it"},
		{host, asOther, "tcp", "10.9.0.1:15000", "one address"}, // from inside
	})
}

func TestUnitsOfOneUserAreToldApartByTheirControlGroups(t *testing.T) {
	host, _ := pair(t)
	root, err := Groups()
	if err != nil {
		t.Fatal(err)
	}
	folder := func(name string) string {
		dir := filepath.Join(root.Mount, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Remove(dir) })
		return dir
	}
	at := func(path string) Owner {
		g, err := root.Find(path)
		if err != nil {
			t.Fatal(err)
		}
		return Owner{Groups: []Cgroup{g}}
	}
	name := "wattle-capture-test"
	folder(name)
	a, b, below := folder(name+"/a.service"), folder(name+"/b.service"), folder(name+"/a.service/below")
	host.replace(Rules{
		Exempt:    proxies,
		Redirects: []Redirect{{For: "a", Owner: at("/" + name + "/a.service"), Port: 15001}, {For: "b", Owner: at("/" + name + "/b.service"), Port: 15002}},
		Doors:     []Door{{To: netip.MustParsePrefix("127.64.1.0/28"), Owner: at("/" + name + "/a.service")}},
	})
	in := func(group string) who { return who{uid: web, gid: web, group: group} }
	check(t, []try{
		{host, in(a), "tcp", "10.9.0.2:80", "proxy of web"},
		{host, in(below), "tcp", "10.9.0.2:80", "proxy of web"},
		{host, in(b), "tcp", "10.9.0.2:80", "proxy of shop"},
		{host, who{group: b}, "tcp", "[fd00::2]:80", "proxy of shop"}, // root, too
		{host, asWeb, "tcp", "10.9.0.2:80", "beside"},
		{host, in(a), "tcp", "127.64.1.1:80", "slice of web"},
		{host, in(b), "tcp", "127.64.1.1:80", "refused"},
	})
	if _, err := root.Find("/" + name + "/none.service"); err == nil {
		t.Error("a control group that is not there was found")
	}
}

// others is what a host has besides: as Docker and an administrator made it.
const others = `
add table ip nat
add chain ip nat DOCKER
add chain ip nat OUTPUT { type nat hook output priority -100; policy accept; }
add rule ip nat OUTPUT ip daddr != 127.0.0.0/8 fib daddr type local jump DOCKER
add rule ip nat DOCKER tcp dport 8081 dnat to 10.9.0.2:80
add table inet filter
add chain inet filter input { type filter hook input priority 0; policy accept; }
add rule inet filter input tcp dport 22 accept
add table inet wattle2
add chain inet wattle2 w1
`

func TestOtherTablesAreLeftAlone(t *testing.T) {
	host, _ := pair(t)
	file := filepath.Join(t.TempDir(), "others.nft")
	if err := os.WriteFile(file, []byte(others), 0o600); err != nil {
		t.Fatal(err)
	}
	host.nft("-f", file)
	before := host.nft("list", "ruleset")
	rules := Rules{Exempt: proxies, Redirects: []Redirect{{Owner: Owner{UIDs: []uint32{web}}, Port: 15001}}, Doors: []Door{{Port: 8080, Owner: Owner{UIDs: []uint32{web}}}}, Closed: []Closed{{Port: 8080}}}
	for range 2 {
		host.replace(rules)
	}
	after := host.nft("list", "ruleset")
	i := strings.Index(after, "table inet wattle {")
	if i < 0 {
		t.Fatal(after)
	}
	if after[:i] != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	check(t, []try{
		{host, asOther, "tcp", "10.9.0.1:8081", "beside"},     // Docker's published port
		{host, asWeb, "tcp", "10.9.0.1:8081", "proxy of web"}, // ours comes first
	})
	if err := host.table().Remove(); err != nil {
		t.Fatal(err)
	}
	if got := host.nft("list", "ruleset"); got != before {
		t.Errorf("before:\n%s\nin the end:\n%s", before, got)
	}
	if err := host.table().Remove(); err != nil {
		t.Error("removed twice:", err)
	}
}

func TestWhatAnotherHandChangedIsNoticed(t *testing.T) {
	host := newSpace(t)
	rules := Rules{Exempt: proxies, Redirects: []Redirect{{Owner: Owner{UIDs: []uint32{web}}, Port: 15001}}}
	more := rules
	more.Exempt++
	if !host.has(Rules{}) || host.has(rules) {
		t.Error("without a table")
	}
	for _, by := range [][]string{
		{"flush", "ruleset"},
		{"flush", "table", "inet", "wattle"},
		{"flush", "chain", "inet", "wattle", "w1"},
		{"add", "rule", "inet", "wattle", "w1", "accept"},
	} {
		host.replace(rules)
		if !host.has(rules) || host.has(more) || host.has(Rules{}) {
			t.Error("what was written is not found")
		}
		if host.nft(by...); host.has(rules) {
			t.Errorf("nft %s was not noticed", strings.Join(by, " "))
		}
	}
	host.replace(Rules{})
	if !host.has(Rules{}) {
		t.Error("the table is there yet")
	}
}

func TestRulesThatWouldHarmTheHostAreRefused(t *testing.T) {
	host := newSpace(t)
	for _, x := range []Redirect{
		{For: "web", Owner: Owner{UIDs: []uint32{0}}, Port: 15001},
		{For: "web", Owner: Owner{Groups: []Cgroup{{ID: 1}}}, Port: 15001},
		{For: "web", Owner: Owner{UIDs: []uint32{web}}},
	} {
		if err := host.table().Replace(Rules{Redirects: []Redirect{x}}); err == nil || !strings.Contains(err.Error(), "web: ") {
			t.Errorf("%+v: %v", x, err)
		}
	}
	if !host.has(Rules{}) {
		t.Error("a table was made")
	}
}

func TestWhatIsRedirectedAndRefusedIsCounted(t *testing.T) {
	host, beside := pair(t)
	r := Rules{
		Exempt: proxies, Redirects: []Redirect{{For: "web", Owner: Owner{UIDs: []uint32{web}}, Port: 15001}},
		Doors:  []Door{{For: "upstream", To: netip.MustParsePrefix("127.0.0.1/32"), Port: 9081, Owner: Owner{UIDs: []uint32{web}}}},
		Closed: []Closed{{Port: 8080}},
	}
	count := func(want Counts) {
		t.Helper()
		if got, err := host.table().Count(); err != nil || got != want {
			t.Errorf("%+v, want %+v (%v)", got, want, err)
		}
	}
	count(Counts{})
	host.replace(r)
	check(t, []try{
		{host, asWeb, "tcp", "10.9.0.2:80", "proxy of web"},
		{host, asWeb, "tcp", "10.9.0.3:80", "proxy of web"},
		{host, asOther, "tcp", "10.9.0.3:80", "beside"},
		{host, asWeb, "tcp", "127.0.0.1:9081", "upstream of web"},
		{host, asOther, "tcp", "127.0.0.1:9081", "refused"},
		{beside, asRoot, "tcp", "10.9.0.1:8080", "refused"},
	})
	count(Counts{Redirected: 2, Refused: 2})
	if !host.has(r) {
		t.Error("counters make it another table")
	}
}
