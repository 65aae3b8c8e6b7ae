package doctor

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// well is a host where all is.
func well() Facts {
	return Facts{
		Systemd: "252.39-1~deb12u1", Kernel: "6.1.0-18-amd64", Guard: true, Unit: "active (running)",
		Host: &api.HostStatus{
			Node: "h1", TrustDomain: "x.example", Connected: true, Planned: true, Time: now, MeshPorts: []uint32{7443},
			Certificates: []api.HeldCertificate{{Identity: "spiffe://x.example/node/h1", NotAfter: now.Add(time.Hour)}},
		},
		Captured: true, Resolver: "active (running)",
		Names: []Name{{Host: "s1.example"}}, Servers: []Server{{Address: "s1.example:7501"}, {Address: "10.0.0.2:7501"}},
		Ports:   []Port{{Number: 7443, Used: true}},
		Envoy:   Envoy{Path: "/usr/bin/envoy", Release: "1.40.0", Needs: "2.28", Glibc: "2.36"},
		Proxies: []Proxy{{Name: "host", State: "active (running), LIVE", Live: true}},
		Reached: []api.ReachResult{{Port: 7443, Address: "10.0.0.1:7443"}},
	}
}

func TestAHostThatIsWell(t *testing.T) {
	all := Examine(well())
	if Sick(all) {
		t.Error("it is sick")
	}
	seen := map[string]bool{}
	for _, f := range all {
		seen[f.What] = true
		if f.State != OK || f.Text == "" || f.Remedy != "" {
			t.Errorf("%+v", f)
		}
	}
	for _, what := range []string{"systemd", "kernel", "nftables", "control groups", "configuration", "Envoy", "agent", "DNS", "reach servers", "clock", "certificate", "port 7443", "proxy host", "reached by others"} {
		if !seen[what] {
			t.Errorf("nothing is said of %s", what)
		}
	}
}

func TestWhatIsWrongIsSaidWithARemedy(t *testing.T) {
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		harm  func(*Facts)
		what  string
		state State
		text  string
	}{
		"an old systemd":                    {func(f *Facts) { f.Systemd = "248 (248.3)" }, "systemd", Wrong, "older than 249"},
		"no systemd":                        {func(f *Facts) { f.Systemd, f.SystemdErr = "", broken }, "systemd", Wrong, "broken"},
		"an old kernel":                     {func(f *Facts) { f.Kernel = "4.17.1" }, "kernel", Wrong, "older than 4.18"},
		"a kernel of another kind":          {func(f *Facts) { f.Kernel = "next" }, "kernel", Warning, "not understood"},
		"no nftables":                       {func(f *Facts) { f.NftablesErr = broken }, "nftables", Warning, "nothing is guarded"},
		"no control groups":                 {func(f *Facts) { f.CgroupsErr = broken }, "control groups", Warning, "broken"},
		"no configuration":                  {func(f *Facts) { f.ConfigErr = broken }, "configuration", Wrong, "broken"},
		"no Envoy":                          {func(f *Facts) { f.Envoy = Envoy{Err: broken} }, "Envoy", Wrong, "broken"},
		"an Envoy for a later glibc":        {func(f *Facts) { f.Envoy.Glibc, f.Envoy.Release = "2.9", "" }, "Envoy", Wrong, "needs glibc 2.28, this host has 2.9"},
		"an Envoy, and no glibc at all":     {func(f *Facts) { f.Envoy.Glibc = "" }, "Envoy", Wrong, "this host has none"},
		"an Envoy that does not run":        {func(f *Facts) { f.Envoy.Release = "" }, "Envoy", Wrong, "does not say"},
		"another Envoy":                     {func(f *Facts) { f.Envoy.Release = "1.39.1" }, "Envoy", Warning, "version 1.39.1"},
		"no agent":                          {func(f *Facts) { f.Host, f.HostErr, f.Unit = nil, broken, "inactive (dead)" }, "agent", Wrong, "its unit is inactive (dead)"},
		"not joined":                        {func(f *Facts) { f.Host.Node = "" }, "agent", Wrong, "has not joined"},
		"a name that leads nowhere":         {func(f *Facts) { f.Names[0].Err = broken }, "DNS", Wrong, "s1.example leads nowhere"},
		"no resolver for captured":          {func(f *Facts) { f.Resolver = "failed (failed)" }, "DNS", Wrong, "wattle-dns.service is failed"},
		"one server away":                   {func(f *Facts) { f.Servers[0].Err = broken }, "reach servers", Warning, "s1.example:7501: broken"},
		"all servers away":                  {func(f *Facts) { f.Servers[0].Err, f.Servers[1].Err, f.Host.Connected = broken, broken, false }, "reach servers", Wrong, "none of them"},
		"a server that does not answer":     {func(f *Facts) { f.Host.Connected = false }, "reach servers", Wrong, "does not answer the agent"},
		"a clock that is ahead":             {func(f *Facts) { f.Host.ClockAhead = configs.Duration(11 * time.Second) }, "clock", Warning, "11s ahead of"},
		"a clock that is far behind":        {func(f *Facts) { f.Host.ClockAhead = configs.Duration(-6 * time.Minute) }, "clock", Wrong, "6m0s behind"},
		"a clock that cannot be compared":   {func(f *Facts) { f.Host.Connected = false }, "clock", Warning, "not compared"},
		"a certificate that has ended":      {func(f *Facts) { f.Host.Time = now.Add(2 * time.Hour) }, "certificate", Wrong, "the host's own ended"},
		"a certificate that is waited for":  {func(f *Facts) { f.Host.Certificates[0].Waiting = "not granted" }, "certificate", Wrong, "not granted"},
		"a mesh port where nobody listens":  {func(f *Facts) { f.Ports[0].Err = broken }, "port 7443", Wrong, "are not: broken"},
		"a mesh port that another one has":  {func(f *Facts) { f.Ports[0] = Port{7443, false, broken} }, "port 7443", Wrong, "cannot be had"},
		"a proxy that is not live":          {func(f *Facts) { f.Proxies[0] = Proxy{Name: "host", State: "failed", Error: "why"} }, "proxy host", Wrong, "failed: why"},
		"a host that others do not reach":   {func(f *Facts) { f.Reached[0].Error = "refused" }, "reached by others", Wrong, "10.0.0.1:7443: refused"},
		"a server that cannot be asked":     {func(f *Facts) { f.ReachedErr = broken }, "reached by others", Warning, "broken"},
		"an alarm of the agent's":           {func(f *Facts) { f.Host.Alarms = []api.Alarm{{Name: "disk", Text: "full"}} }, "alarm disk", Warning, "full"},
		"nftables that nobody wants to use": {func(f *Facts) { f.NftablesErr, f.Guard = broken, false }, "nftables", OK, "need not"},
	} {
		t.Run(name, func(t *testing.T) {
			f := well()
			c.harm(&f)
			all := Examine(f)
			found := false
			for _, x := range all {
				if x.What == c.what && x.State == c.state && strings.Contains(x.Text, c.text) {
					found = true
				}
				if (x.State == OK) != (x.Remedy == "") {
					t.Errorf("a remedy of what is well, or none of what is not: %+v", x)
				}
			}
			if !found {
				t.Errorf("no %s %s with %q in %+v", c.state, c.what, c.text, all)
			}
			if c.state == Wrong && !Sick(all) {
				t.Error("it is not sick")
			}
		})
	}
}

func TestVersions(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{{"2.9", "2.28", true}, {"2.28", "2.9", false}, {"2.28", "2.28", false}, {"2.28", "2.28.1", true}, {"", "2.1", true}, {"3", "2.99", false}} {
		if got := older(c.a, c.b); got != c.want {
			t.Errorf("%q older than %q: %v", c.a, c.b, got)
		}
	}
}

func TestARealEnvoyIsLookedAt(t *testing.T) {
	path := os.Getenv("ENVOY")
	if path == "" {
		path = filepath.Join("..", "..", ".bin", "envoy")
	}
	e := LookAt(context.Background(), path)
	if e.Err != nil || !strings.HasPrefix(e.Release, Series) || e.Needs == "" || e.Glibc == "" || e.glibcTooOld() {
		t.Errorf("%+v", e)
	}
	if e := LookAt(context.Background(), filepath.Join(t.TempDir(), "none")); e.Err == nil {
		t.Errorf("%+v of no file", e)
	}
	script := filepath.Join(t.TempDir(), "envoy")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho 'envoy  version: 0123abcd/1.40.7/Clean/RELEASE/BoringSSL'\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if e := LookAt(context.Background(), script); e.Err != nil || e.Release != "1.40.7" || e.Needs != "" {
		t.Errorf("%+v of a script that starts one", e)
	}
}
