package e2e

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/wattle-mesh/wattle/configs"
)

// readyLimit is how long a mesh, or a change of it, may take to be everywhere. The machine may be busy.
const readyLimit = 60 * time.Second

// mesh is a running mesh: one server, an agent with its Envoys for each host block of the policy, and the echo
// application for each service whose command is ["echo"].
type mesh struct {
	t      *testing.T
	net    *network
	dir    string // of everything; short, for the sockets in it
	server *process
	agents map[string]*process // by host
	bare   []string            // hosts of the policy that get no agent
	extra  string              // of the server's configuration
	apps   map[string]*process // by "host/service" or "host/service/instance"
}

// newMesh starts a mesh from a txtar archive of policy files and waits until everything is ready. The file server.hcl is
// added to the server's configuration; what is below registry/ stands in DIR/registry. Hosts named in bare
// get no agent: the test plays them. When the test ends it stops everything, and fails the test if a process is left.
func newMesh(t *testing.T, policy string, bare ...string) *mesh {
	t.Helper()
	m := prepareMesh(t, policy, bare...)
	m.startServer()
	m.sync()
	return m
}

// prepareMesh is newMesh without starting anything.
func prepareMesh(t *testing.T, policy string, bare ...string) *mesh {
	t.Helper()
	m := &mesh{t: t, net: newNetwork(t), bare: bare, agents: map[string]*process{}, apps: map[string]*process{}}
	var err error
	if m.dir, err = os.MkdirTemp("", "we2e-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.close)
	for _, f := range txtar.Parse([]byte(policy)).Files {
		switch name, ok := strings.CutPrefix(f.Name, "registry/"); {
		case ok:
			m.writeRegistry(name, string(f.Data))
		case f.Name == "server.hcl":
			m.extra = string(f.Data)
		default:
			m.write(f.Name, string(f.Data))
		}
	}
	return m
}

// writeRegistry puts a file of a static registry in its place, whole at once.
func (m *mesh) writeRegistry(name, text string) {
	m.t.Helper()
	file := m.path("registry", name)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(file+".new", []byte(m.at(text)), 0o600); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		m.t.Fatal(err)
	}
}

func (m *mesh) path(elem ...string) string { return filepath.Join(append([]string{m.dir}, elem...)...) }

// at fills the mesh's own addresses and folder in: 127.0.X.y, and DIR.
func (m *mesh) at(text string) string {
	return strings.ReplaceAll(m.net.at(text), "DIR", m.dir)
}

// write puts a policy file in its place, whole at once. The server sees it; write does not wait for that.
func (m *mesh) write(name, text string) {
	m.t.Helper()
	file := m.path("policy", name)
	tmp := m.path("new")
	err := os.MkdirAll(filepath.Dir(file), 0o700)
	if err == nil {
		err = os.WriteFile(tmp, []byte(m.at(text)), 0o600)
	}
	if err == nil {
		err = os.Rename(tmp, file)
	}
	if err != nil {
		m.t.Fatal(err)
	}
}

// remove deletes a policy file.
func (m *mesh) remove(name string) {
	m.t.Helper()
	if err := os.Remove(m.path("policy", name)); err != nil {
		m.t.Fatal(err)
	}
}

// change writes a policy file and waits until the revision that it makes is everywhere.
func (m *mesh) change(name, text string) {
	m.t.Helper()
	before := m.status().Revision
	m.write(name, text)
	eventually(m.t, "a new revision", func() error {
		if s := m.status(); s.Revision <= before {
			return fmt.Errorf("still revision %d: %+v", s.Revision, s.Diagnostics)
		}
		return nil
	})
	m.sync()
}

// process makes a process of the mesh that is not running yet.
func (m *mesh) process(name string, argv ...string) *process {
	return &process{name: name, argv: argv, dir: m.dir, log: m.path(strings.ReplaceAll(name, "/", "-") + ".log")}
}

// wattle runs a command of the CLI and returns what it printed.
func (m *mesh) wattle(args ...string) string {
	m.t.Helper()
	out, err := m.tryWattle(args...)
	if err != nil {
		m.t.Fatalf("wattle %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func (m *mesh) startServer() {
	m.t.Helper()
	config := m.path("server.hcl")
	text := m.at(`
state_dir = "DIR/server"
policy    = "DIR/policy"
http      = "127.0.X.1:7500"
agents    = "127.0.X.1:7501"
names     = ["127.0.X.1"]
` + m.extra)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
	m.server = m.process("server", filepath.Join(suite.bin, "wattle"), "server", "-config", config)
	m.server.start(m.t)
	eventually(m.t, "the server to answer", func() error {
		_, err := m.tryStatus()
		return m.alive(err, m.server)
	})
}

// sync starts the agents and applications that the policy names and that do not run yet, and waits until all is
// ready: every application listens, every proxy has acknowledged all it was sent.
func (m *mesh) sync() {
	m.t.Helper()
	policy, diags := configs.Load(m.path("policy"))
	if diags.HasErrors() {
		m.t.Fatal(diags.Error())
	}
	for _, h := range policy.Hosts {
		for _, s := range h.Services {
			m.startApp(h, s)
		}
	}
	for _, h := range policy.Hosts {
		if m.agents[h.Name] == nil && !slices.Contains(m.bare, h.Name) {
			m.join(h.Name, h.Address.String(), "")
		}
	}
	m.ready(m.proxyIDs(policy))
	for _, addr := range m.binds(policy) {
		eventually(m.t, "an Envoy to listen at "+addr, func() error { return dial(m.t.Context(), addr) })
	}
}

// binds lists where the Envoys of the policy's hosts listen. A proxy is in sync before its Envoy has opened its first
// listeners: the agent answers for an Envoy that is still starting.
func (m *mesh) binds(policy *configs.Policy) []string {
	var out []string
	for _, h := range policy.Hosts {
		if m.agents[h.Name] == nil {
			continue
		}
		for _, s := range h.Services {
			if cmp.Or(s.Mode, h.Mode) != "sidecar" { // whose port depends on who came first
				out = append(out, netip.AddrPortFrom(h.Address, h.MeshPort).String())
			}
			for _, u := range s.Upstreams {
				if u.Socket != "" {
					out = append(out, "unix:"+u.Socket)
				} else {
					out = append(out, u.Bind.String())
				}
			}
		}
	}
	for _, g := range policy.Gateways {
		for _, s := range g.Servers {
			out = append(out, s.Bind.String())
		}
	}
	return out
}

// proxyIDs lists the proxies that the policy's hosts run.
func (m *mesh) proxyIDs(policy *configs.Policy) []string {
	var ids []string
	for _, h := range policy.Hosts {
		if m.agents[h.Name] != nil {
			ids = append(ids, h.Name+"/host")
		}
	}
	for _, g := range policy.Gateways {
		for _, h := range g.RunOn {
			ids = append(ids, h+"/gw-"+g.Name)
		}
	}
	return ids
}

// startApp starts the echo application of a service, unless it has run before.
func (m *mesh) startApp(h *configs.Host, s *configs.Service) {
	m.t.Helper()
	key := appKey(h.Name, s)
	if len(s.Command) == 0 || m.apps[key] != nil {
		return
	}
	argv := []string{filepath.Join(suite.bin, "app"), "-name", s.Name, "-version", s.Meta["version"], "-host", h.Name,
		"-instance", s.Instance, "-receipts", m.receipts(key)}
	for _, p := range s.Ports {
		kind := "-http"
		if p.Protocol == "tcp" {
			kind = "-tcp"
		}
		argv = append(argv, kind, p.Local.String())
	}
	m.apps[key] = m.process("app-"+key, argv...)
	m.apps[key].start(m.t)
	for _, p := range s.Ports {
		eventually(m.t, key+" to listen", func() error { return m.alive(dial(m.t.Context(), p.Local.String()), m.apps[key]) })
	}
}

func appKey(host string, s *configs.Service) string {
	return strings.TrimSuffix(host+"/"+s.Name+"/"+s.Instance, "/")
}

// receipts names the file in which an application writes what it received.
func (m *mesh) receipts(key string) string {
	return m.path(strings.ReplaceAll(key, "/", "-") + ".receipts")
}

// join starts the agent of a host with a new token. services is the text of a file for its services.d, if not
// empty; grants is what the token lets it register.
func (m *mesh) join(host, address, services string, grants ...string) {
	m.t.Helper()
	args := []string{"token", "create", "-node", host}
	if len(grants) > 0 {
		args = append(args, "-services", strings.Join(grants, ","))
	}
	m.startAgent(host, address, "DIR/"+host+"/state", m.at("127.0.X.1:7501"), map[string]string{
		"token":                   m.wattle(args...),
		"services.d/services.hcl": services,
	})
}

// startAgent starts the agent of a host with the files in its folder.
func (m *mesh) startAgent(host, address, state, server string, files map[string]string) {
	m.t.Helper()
	home := m.path(host)
	if err := os.MkdirAll(filepath.Join(home, "services.d"), 0o700); err != nil {
		m.t.Fatal(err)
	}
	text := fmt.Sprintf(`
node           = %q
server         = [%q]
state_dir      = %q
run_dir        = "DIR/%[1]s/run"
services_dir   = "DIR/%[1]s/services.d"
address        = %[4]q
source_address = %[4]q
envoy          = %q
concurrency    = 1
stop_proxies   = true
`, host, server, state, address, suite.envoy)
	if files["token"] != "" {
		text += `token_file = "DIR/` + host + `/token"` + "\n"
	}
	files["agent.hcl"] = text
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(home, name), []byte(m.at(text)), 0o600); err != nil {
			m.t.Fatal(err)
		}
	}
	m.agents[host] = m.process("agent-"+host, filepath.Join(suite.bin, "wattle"), "agent", "-config", filepath.Join(home, "agent.hcl"))
	m.agents[host].start(m.t)
}

// alive adds to a wait's error that a process has ended, which no waiting mends.
func (m *mesh) alive(err error, p *process) error {
	if err != nil && !p.running() {
		m.t.Fatalf("%s has ended: %v\n%s", p.name, p.err, tail(p.log, 30))
	}
	return err
}

// close stops everything, applications last, shows the logs if the test failed, and checks that nothing is left.
func (m *mesh) close() {
	var killed bool
	stop := func(p *process) {
		if p == nil {
			return
		}
		killed = killed || !p.running()
		if err := p.stop(); err != nil {
			m.t.Error(err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.agents)) {
		stop(m.agents[name])
	}
	agentKilled := killed // its Envoys live on, as they should
	stop(m.server)
	for _, name := range slices.Sorted(maps.Keys(m.apps)) {
		stop(m.apps[name])
	}
	left := leftovers(m.dir)
	if len(left) > 0 && !agentKilled {
		m.t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
	if m.t.Failed() {
		logs, _ := filepath.Glob(m.path("*.log"))
		for _, log := range logs {
			m.t.Logf("%s:\n%s", filepath.Base(log), tail(log, 60))
		}
	}
	if err := os.RemoveAll(m.dir); err != nil {
		m.t.Error(err)
	}
}

// eventually polls what other processes do until check gives no error, as there is nothing to wait on; it fails the
// test with the last error after readyLimit.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	within(t, readyLimit, what, check)
}

// within is eventually with a limit.
func within(t *testing.T, limit time.Duration, what string, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited %s for %s: %v", limit, what, err)
		}
	}
}
