package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wattle-mesh/wattle/adapters"
	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/capture"
	"github.com/wattle-mesh/wattle/internal/dns"
	"github.com/wattle-mesh/wattle/internal/mesh/planpb"
	"github.com/wattle-mesh/wattle/internal/systemd"
)

// webPlan is a host with a captured workload.
func webPlan(mode string, change ...func(*planpb.Workload)) *planpb.HostPlan {
	w := &planpb.Workload{
		Namespace: "shop", Service: "web", Unit: "web.service", MeshPort: 7443,
		Ports:     []*planpb.Port{{Number: 80, Protocol: "http", Local: "127.0.0.1:8080"}},
		Upstreams: []*planpb.Upstream{{Service: "db", Bind: "127.0.0.1:9081"}, {Service: "mq", Bind: "unix:/run/mq"}},
		Capture: &planpb.Capture{
			Mode: mode, Slice: "127.64.0.0/18", Domain: "mesh", RedirectPort: 15100, ExcludeAddresses: []string{"10.9.0.0/16"}, ExcludePorts: []uint32{22},
			Names: []*planpb.Name{{Name: "reviews.shop", Address: "127.64.0.1"}},
		},
	}
	for _, f := range change {
		f(w)
	}
	return &planpb.HostPlan{Host: "h1", Workloads: []*planpb.Workload{w}}
}

// aHost is one where all is well: web.service has a user of its own.
func aHost() hostFacts {
	return hostFacts{
		services: map[string]serviceFact{"web.service": {Service: systemd.Service{Runs: true, UID: 4201, UIDSet: true, Dynamic: true, Cgroup: "/system.slice/web.service"}}},
		group:    func(path string) (capture.Cgroup, error) { return capture.Cgroup{Level: 2, ID: 77}, nil },
		user:     systemd.User,
		stateDir: "/state", proxies: 42, guard: true, rules: true, allow: []uint32{7}, drop: func(string) (int64, bool) { return 0, false },
	}
}

func lines(c captured) (out []string) {
	owner := func(o capture.Owner) string { return fmt.Sprintf("%v%v", o.UIDs, o.Groups) }
	for _, r := range c.rules.Redirects {
		out = append(out, fmt.Sprintf("redirect %s of %s to %d but %v %v", r.For, owner(r.Owner), r.Port, r.ExcludeAddresses, r.ExcludePorts))
	}
	for _, d := range c.rules.Doors {
		out = append(out, fmt.Sprintf("door %v %d for %s %v", d.To, d.Port, owner(d.Owner), d.Also))
	}
	for _, x := range c.rules.Closed {
		out = append(out, fmt.Sprintf("closed %v %d", x.Address, x.Port))
	}
	for _, v := range c.views.Views {
		out = append(out, fmt.Sprintf("names of %s at %s in %s.%s: %v", v.For, v.Address, v.Namespace, v.Domain, v.Names))
	}
	for path, v := range c.resolv {
		out = append(out, fmt.Sprintf("file %s for %s", path, v.For))
	}
	for _, f := range c.faults {
		out = append(out, fmt.Sprintf("fault %s: %s", f.workload, f.what))
	}
	return out
}

func TestWhatAPlanMeansForTheHost(t *testing.T) {
	user := func(name string) func(*planpb.Workload) {
		return func(w *planpb.Workload) { w.Capture.User, w.Unit = name, "" }
	}
	service := func(change func(*serviceFact)) func(*hostFacts) {
		return func(h *hostFacts) { s := h.services["web.service"]; change(&s); h.services["web.service"] = s }
	}
	static := service(func(s *serviceFact) { s.Dynamic = false })
	for _, c := range []struct {
		name string
		plan *planpb.HostPlan
		host func(*hostFacts)
		want []string // among what it means
		not  []string // beginnings
	}{
		{"loopback", webPlan("loopback"), nil, []string{
			"door 127.64.0.0/18 0 for [4201][] []", "door 127.0.0.1/32 9081 for [4201][] []",
			"door 127.0.0.1/32 8080 for [4201][] [0 7]", "door ::1/128 8080 for [4201][] [0 7]", "door invalid Prefix 8080 for [4201][] [0 7]", "closed invalid IP 8080",
			"names of shop/web at 127.64.0.0 in shop.mesh: map[reviews.shop:127.64.0.1]", "file /state/resolv/web.service.conf for shop/web",
		}, []string{"redirect", "fault"}},
		{"transparent", webPlan("transparent"), nil, []string{
			"redirect shop/web of [4201][] to 15100 but [10.9.0.0/16] [22]", "door 127.0.0.1/32 15100 for [4201][] []", "door ::1/128 15100 for [4201][] []",
		}, []string{"fault"}},
		{"a unit whose user others may have", webPlan("transparent"), static, []string{"redirect shop/web of [][{2 77}] to 15100 but [10.9.0.0/16] [22]"}, []string{"fault"}},
		{"a unit of root", webPlan("transparent"), service(func(s *serviceFact) { s.Dynamic, s.UID = false, 0 }), []string{"redirect shop/web of [][{2 77}] to 15100 but [10.9.0.0/16] [22]"}, []string{"fault"}},
		{"a unit that does not run lets nobody in", webPlan("transparent"), service(func(s *serviceFact) { *s = serviceFact{Service: systemd.Service{UIDSet: true, UID: 5}} }), []string{
			"door 127.64.0.0/18 0 for [][] []", "closed invalid IP 8080",
		}, []string{"redirect", "fault"}},
		{"without control groups of version 2 the user counts", webPlan("transparent"), func(h *hostFacts) { static(h); h.group = nil }, []string{
			"redirect shop/web of [4201][] to 15100 but [10.9.0.0/16] [22]",
			"fault shop/web: everything that runs as uid 4201 counts as unit web.service: this host has no control groups of version 2",
		}, nil},
		{"without them root cannot be told apart", webPlan("transparent"), func(h *hostFacts) {
			service(func(s *serviceFact) { s.Dynamic, s.UID = false, 0 })(h)
			h.group = nil
		}, []string{"fault shop/web: the connections of unit web.service cannot be told from others': this host has no control groups of version 2, and the unit runs as root or as another workload's user"}, []string{"redirect", "door"}},
		{"a user", webPlan("transparent", user("4300")), nil, []string{"redirect shop/web of [4300][] to 15100 but [10.9.0.0/16] [22]"}, []string{"fault", "file"}},
		{"root is no user to capture", webPlan("transparent", user("root")), nil, []string{"fault shop/web: it is not captured: what root sends belongs to the host, not to one workload"}, []string{"redirect"}},
		{"a user that there is not", webPlan("transparent", user("no-such-user")), nil, []string{`fault shop/web: it is not captured: this host has no user "no-such-user"`}, []string{"redirect"}},
		{"neither unit nor user", webPlan("loopback", func(w *planpb.Workload) { w.Unit = "" }), nil, []string{
			"fault shop/web: its connections cannot be told from others': any process of this host may call as it", "closed invalid IP 8080",
		}, []string{"door", "file"}},
		{"a unit that systemd does not know", webPlan("loopback"), service(func(s *serviceFact) { s.err = errors.New("systemd does not know it") }), []string{
			"fault shop/web: unit web.service is not known: systemd does not know it",
		}, []string{"door", "file"}},
		{"a unit that a socket starts", webPlan("loopback"), service(func(s *serviceFact) { s.Sockets = []string{"web.socket"} }), []string{
			"fault shop/web: unit web.service is started by web.socket: what is under way on its sockets is not its own",
		}, []string{"file"}},
		{"a unit with a network of its own", webPlan("loopback"), service(func(s *serviceFact) { s.Apart = "PrivateNetwork=yes" }), []string{
			"fault shop/web: unit web.service has a network of its own (PrivateNetwork=yes), where it does not reach its proxy",
		}, []string{"file"}},
		{"a unit that was started before", webPlan("loopback"), func(h *hostFacts) {
			service(func(s *serviceFact) { s.Started = time.Unix(100, 0) })(h)
			h.drop = func(string) (int64, bool) { return time.Unix(200, 0).UnixNano(), true }
		}, []string{"fault shop/web: unit web.service was started before it was captured: it does not find names of the mesh yet", "file /state/resolv/web.service.conf for shop/web"}, nil},
		{"without nftables", webPlan("transparent"), func(h *hostFacts) { h.rules, h.denied = false, errors.New("denied") }, []string{
			"fault shop/web: what it sends is not redirected: the agent may not use nftables",
			"fault /: nothing is guarded on this host (nftables may not be used: denied): who calls as which workload is up to its processes, and applications take plaintext where they listen",
			"names of shop/web at 127.64.0.0 in shop.mesh: map[reviews.shop:127.64.0.1]",
		}, []string{"redirect", "door", "closed"}},
		{"without a guard", webPlan("transparent"), func(h *hostFacts) { h.guard = false }, []string{
			"redirect shop/web of [4201][] to 15100 but [10.9.0.0/16] [22]",
			"fault /: nothing is guarded on this host (guard = false): who calls as which workload is up to its processes, and applications take plaintext where they listen",
		}, []string{"door", "closed"}},
		{"an application at an address of the host", webPlan("loopback", func(w *planpb.Workload) { w.Ports[0].Local = "10.0.0.5:8080" }), nil, []string{
			"door 10.0.0.5/32 8080 for [4201][] [0 7]", "closed 10.0.0.5 8080",
		}, []string{"fault"}},
		{"an application at another loopback address", webPlan("loopback", func(w *planpb.Workload) { w.Ports[0].Local = "127.0.0.9:8080" }), nil, []string{
			"door 127.0.0.9/32 8080 for [4201][] [0 7]",
		}, []string{"closed", "fault"}},
		{"a workload without capture is guarded, too", webPlan("", func(w *planpb.Workload) { w.Capture = nil }), nil, []string{
			"door 127.0.0.1/32 9081 for [4201][] []", "door 127.0.0.1/32 8080 for [4201][] [0 7]", "closed invalid IP 8080",
		}, []string{"names", "file", "fault", "redirect"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := aHost()
			if c.host != nil {
				c.host(&h)
			}
			got := planCapture(c.plan, h)
			all := lines(got)
			for _, want := range c.want {
				if !slices.Contains(all, want) {
					t.Errorf("no %q in\n%s", want, strings.Join(all, "\n"))
				}
			}
			for _, not := range c.not {
				if i := slices.IndexFunc(all, func(s string) bool { return strings.HasPrefix(s, not) }); i >= 0 {
					t.Errorf("%q", all[i])
				}
			}
			for _, f := range got.faults {
				if f.remedy == "" {
					t.Errorf("no remedy: %+v", f)
				}
			}
		})
	}
}

func TestAGatewaysPortStaysOpen(t *testing.T) {
	plan := webPlan("loopback")
	plan.Proxies = []*planpb.Proxy{{Id: "h1/gw-public", OpenPorts: []uint32{8080}}}
	for _, line := range lines(planCapture(plan, aHost())) {
		if strings.HasPrefix(line, "closed") || strings.HasPrefix(line, "door invalid Prefix") {
			t.Error(line)
		}
	}
}

func TestAUnitOfTwoCapturedWorkloadsFindsTheNamesOfOne(t *testing.T) {
	plan := webPlan("loopback")
	more := webPlan("loopback", func(w *planpb.Workload) { w.Service, w.Capture.Slice = "web2", "127.64.64.0/18" })
	plan.Workloads = append(plan.Workloads, more.Workloads...)
	all := lines(planCapture(plan, aHost()))
	for _, want := range []string{"file /state/resolv/web.service.conf for shop/web", "fault shop/web2: unit web.service is another captured workload's, too, whose names it finds"} {
		if !slices.Contains(all, want) {
			t.Errorf("no %q in\n%s", want, strings.Join(all, "\n"))
		}
	}
}

// kernel is a table in memory.
type kernel struct {
	mu    sync.Mutex
	rules capture.Rules
}

func (k *kernel) Replace(r capture.Rules) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.rules = r
	return nil
}

func (k *kernel) Has(r capture.Rules) (bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return fmt.Sprint(k.rules) == fmt.Sprint(r), nil
}

func (k *kernel) redirects() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.rules.Redirects)
}

// capturing runs a capturer, without any server, on a host whose units are what services says.
func capturing(t *testing.T, services func(unit string) (systemd.Service, error)) (c *capturer, k *kernel, changed func(unit string)) {
	t.Helper()
	k = new(kernel)
	units := make(chan string)
	cfg := &configs.Agent{StateDir: t.TempDir(), RunDir: t.TempDir(), Servers: []string{"127.0.0.1:1"}}
	var plan value[*planpb.HostPlan]
	c = newCapturer(slog.New(slog.DiscardHandler), &Capture{
		Table: k, Guard: true, Proxies: os.Getgid(), User: systemd.User, DropIn: func(string) (time.Time, bool) { return time.Time{}, false },
		Service: func(_ context.Context, unit string) (systemd.Service, error) { return services(unit) },
		Follow: func(ctx context.Context, ready func(), changed func(string)) error {
			ready()
			for {
				select {
				case u := <-units:
					changed(u)
				case <-ctx.Done():
					return nil
				}
			}
		},
	}, cfg, &plan, new(value[map[workload]string]))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return c, k, func(unit string) { units <- unit }
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-deadline:
			t.Fatalf("never: %s", what)
		}
	}
}

func TestCaptureFollowsThePlanAndItsUnits(t *testing.T) {
	var mu sync.Mutex
	now := systemd.Service{Dynamic: true}
	c, k, changed := capturing(t, func(string) (systemd.Service, error) {
		mu.Lock()
		defer mu.Unlock()
		return now, nil
	})
	if c.workloads.Now() != nil {
		t.Error("before there is a plan, what workloads have is to stay")
	}
	c.plan.Set(webPlan("transparent"))
	file, views := resolvFile(c.cfg.StateDir, "web.service"), filepath.Join(c.cfg.RunDir, resolverFolder, dns.File)
	eventually(t, "the adapter hears of it", func() bool {
		w := c.workloads.Now()
		return w != nil && w.Resolver && reflect.DeepEqual(w.Units, []adapters.Unit{{Name: "web.service", Resolv: file}})
	})
	text, err := os.ReadFile(file)
	info, _ := os.Stat(file)
	if err != nil || !strings.Contains(string(text), "nameserver 127.64.0.0\nsearch shop.mesh mesh") || info.Mode().Perm() != 0o644 {
		t.Errorf("%s, %v, %v", text, info.Mode(), err)
	}
	text, err = os.ReadFile(views)
	info, _ = os.Stat(views)
	if err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("%v, %v", info, err)
	}
	if cfg, err := dns.Parse(text); err != nil || len(cfg.Views) != 1 || cfg.Views[0].Names["reviews.shop"] != netip.MustParseAddr("127.64.0.1") {
		t.Errorf("%s, %v", text, err)
	}
	if k.redirects() != 0 {
		t.Error("it has never run, and is redirected")
	}

	mu.Lock()
	now.Runs, now.UID, now.UIDSet = true, 4201, true
	mu.Unlock()
	changed("other.service")
	changed("web.service")
	eventually(t, "it runs and is redirected", func() bool { return k.redirects() == 1 })
	mu.Lock()
	now.Runs, now.UIDSet, now.UID = false, false, 0
	mu.Unlock()
	changed("web.service")
	changed("web.service") // the first was heard
	if k.redirects() != 1 {
		t.Error("its user is mostly the same when it starts next")
	}

	old, _ := os.Stat(file)
	c.plan.Set(webPlan("loopback", func(w *planpb.Workload) { w.Capture.Domain = "m" }))
	eventually(t, "the file says so", func() bool { text, _ := os.ReadFile(file); return strings.Contains(string(text), "search shop.m m") })
	if again, _ := os.Stat(file); !os.SameFile(old, again) {
		t.Error("a unit that runs has the old file")
	}
	eventually(t, "nothing is redirected", func() bool { return k.redirects() == 0 })

	c.plan.Set(&planpb.HostPlan{})
	eventually(t, "nothing is left", func() bool {
		_, err := os.Stat(file)
		w := c.workloads.Now()
		return os.IsNotExist(err) && !w.Resolver && len(w.Units) == 0
	})
	eventually(t, "there is no table", func() bool { ok, _ := k.Has(capture.Rules{}); return ok || len(k.rules.Doors)+len(k.rules.Closed) == 0 })
}

func TestTheUnitThatWasRegisteredHereCounts(t *testing.T) {
	plan := webPlan("loopback", func(w *planpb.Workload) { w.Unit = "" })
	web := workloadOf(plan.GetWorkloads()[0])
	got := named(plan, map[workload]string{web: "mine.service"}).GetWorkloads()[0].GetUnit()
	if got != "mine.service" || plan.GetWorkloads()[0].GetUnit() != "" {
		t.Error(got)
	}
	if got := named(webPlan("loopback"), nil).GetWorkloads()[0].GetUnit(); got != "web.service" {
		t.Error("the plan's word is not kept:", got)
	}
}

func TestWhatFallsShortIsReported(t *testing.T) {
	c, _, _ := capturing(t, func(string) (systemd.Service, error) {
		return systemd.Service{}, errors.New("systemd does not know it")
	})
	c.plan.Set(webPlan("loopback"))
	eventually(t, "it is said", func() bool { return len(c.faults.Now()) > 0 })
	d := c.faults.Now()[0]
	if d.Code != codeCapture || !strings.Contains(d.Summary, "workload shop/web: unit web.service is not known") || d.Detail == "" {
		t.Errorf("%+v", d)
	}
	declared := []byte(`[{"severity":"error","code":"W1001","summary":"x"}]`)
	if got := string(withFaults(declared, c.faults.Now())); !strings.Contains(got, "W1001") || !strings.Contains(got, codeCapture) {
		t.Error(got)
	}
	if got := withFaults(declared, nil); string(got) != string(declared) {
		t.Errorf("%s", got)
	}
	c.plan.Set(&planpb.HostPlan{})
	eventually(t, "it is said no more", func() bool { return len(c.faults.Now()) == 0 })
}

func TestSystemdThatIsAwayChangesNothing(t *testing.T) {
	var mu sync.Mutex
	var away error
	c, k, changed := capturing(t, func(string) (systemd.Service, error) {
		mu.Lock()
		defer mu.Unlock()
		return systemd.Service{Dynamic: true, Runs: true, UIDSet: true, UID: 4201}, away
	})
	c.plan.Set(webPlan("transparent"))
	eventually(t, "it is redirected", func() bool { return k.redirects() == 1 })
	mu.Lock()
	away = errors.New("no bus")
	mu.Unlock()
	changed("web.service")
	changed("web.service")
	if k.redirects() != 1 || len(c.faults.Now()) > 0 {
		t.Error("it is redirected no more:", c.faults.Now())
	}
}
