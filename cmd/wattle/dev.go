package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/wattle-mesh/wattle/adapters/process"
	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api"
	"github.com/wattle-mesh/wattle/internal/pipeline"
	"github.com/wattle-mesh/wattle/internal/xds"
)

func newDev() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dev DIR",
		Short: "Run a whole mesh on this machine, in the foreground",
		Long: `Dev runs a server, an agent and an Envoy for each host block of DIR, and the commands of its services, as one process
tree in the foreground. Hosts are loopback addresses (127.0.0.x); no root is needed. Edit the files in DIR and
watch the mesh follow. Ctrl-C ends everything and leaves nothing behind: state lives in a temporary folder.`,
		Args: args(cobra.ExactArgs(1)),
	}
	options := varFlags(cmd)
	http := cmd.Flags().String("http", "127.0.0.1:7500", "where the HTTP API listens, `ADDRESS:PORT`")
	agents := cmd.Flags().String("agents", "127.0.0.1:7501", "where agents reach the server, `ADDRESS:PORT`")
	cmd.RunE = func(cmd *cobra.Command, a []string) error {
		o, err := options()
		if err != nil {
			return err
		}
		d := &dev{dir: a[0], options: o, http: *http, agents: *agents, joined: map[string]bool{}}
		d.out = newLines(cmd.OutOrStdout(), nil)
		b := pipeline.Build(d.dir, o)
		if err := refuse(cmd.ErrOrStderr(), b.Diagnostics); err != nil {
			return err
		}
		return d.run(cmd.Context(), b)
	}
	return cmd
}

// dev is one run of wattle dev.
type dev struct {
	dir          string
	options      configs.Options
	http, agents string

	out    *lines
	state  string // temporary folder of everything
	self   string // this program
	envoy  string
	client *api.Client
	joined map[string]bool // hosts whose agent has its configuration and token
}

func (d *dev) say(format string, a ...any) { d.out.Printf("dev", format, a...) }

func (d *dev) run(ctx context.Context, b pipeline.Built) error {
	if len(b.Policy.Hosts) == 0 {
		return &invalid{fmt.Errorf("%s declares no host, so there is nothing to run; add a block such as host \"h1\" { address = \"127.0.0.2\" }", d.dir)}
	}
	var err error
	if d.envoy, err = process.FindEnvoy(""); err != nil {
		return err
	}
	if d.self, err = os.Executable(); err != nil {
		return err
	}
	if err := free(needs(b, d.http, d.agents)); err != nil {
		return err
	}
	if d.dir, err = filepath.Abs(d.dir); err != nil {
		return err
	}
	if d.state, err = os.MkdirTemp("", "wattle-dev-"); err != nil {
		return err
	}
	defer os.RemoveAll(d.state)
	procs, err := newProcs(d.out)
	if err != nil {
		return err
	}
	defer procs.Stop()
	return d.mesh(ctx, procs, b)
}

// mesh starts everything, says when it is ready, and then follows the hosts and commands of the policy until ctx is done.
func (d *dev) mesh(ctx context.Context, procs *procs, b pipeline.Built) error {
	began := time.Now()
	server, err := d.server()
	if err != nil {
		return err
	}
	d.say("server: policy %s, API http://%s, agents %s", d.dir, d.http, d.agents)
	forever := context.WithoutCancel(ctx) // Stop ends the processes, after the last words
	procs.Set(forever, []proc{server})
	d.client = api.NewClient(api.ClientOptions{Address: d.http, TokenFile: filepath.Join(d.state, "server", "admin.token")})
	if err := d.until(ctx, "the server to answer", func() bool { _, err := d.client.Status(ctx); return err == nil }); err != nil {
		return stopped(ctx, err)
	}
	changed := make(chan struct{}, 1)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return configs.Watch(ctx, d.dir, func() {
			select {
			case changed <- struct{}{}:
			default:
			}
		})
	})
	g.Go(func() error {
		if err := d.start(ctx, procs, server, b); err != nil {
			return stopped(ctx, err)
		}
		d.ready(b, time.Since(began))
		return d.follow(ctx, procs, server, b.Policy, changed)
	})
	err = g.Wait()
	d.say("stopping")
	return err
}

// start starts the agents and applications and waits until every proxy has its configuration.
func (d *dev) start(ctx context.Context, procs *procs, server proc, b pipeline.Built) error {
	want, err := d.want(ctx, server, b.Policy)
	if err != nil {
		return err
	}
	procs.Set(context.WithoutCancel(ctx), want)
	return d.until(ctx, "every workload to be reported and every proxy to have its configuration", func() bool {
		status, err := d.client.Status(ctx)
		return err == nil && status.Unreported == 0 && d.synced(ctx, b.View.ProxyIDs())
	})
}

// follow brings processes in line with the policy whenever its hosts change. A policy that is not valid is the
// server's to complain about.
func (d *dev) follow(ctx context.Context, procs *procs, server proc, now *configs.Policy, changed <-chan struct{}) error {
	loader := configs.NewLoader(d.options)
	for {
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
		next, diags := loader.Load(d.dir)
		if diags.HasErrors() || sameHosts(now, next) {
			continue
		}
		want, err := d.want(ctx, server, next)
		if err != nil {
			return stopped(ctx, err)
		}
		procs.Set(context.WithoutCancel(ctx), want)
		now = next
	}
}

// sameHosts reports whether two policies run the same processes.
func sameHosts(a, b *configs.Policy) bool {
	x, errX := json.Marshal(a.Hosts)
	y, errY := json.Marshal(b.Hosts)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// stopped turns an error that the user's Ctrl-C caused into none.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// until polls what the children say of themselves; they are other processes, so there is nothing to wait on.
func (d *dev) until(ctx context.Context, what string, ok func() bool) error {
	limit := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-limit:
			return fmt.Errorf("waited 30s for %s; the lines above say why", what)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// synced reports whether the proxies have acknowledged what they were sent.
func (d *dev) synced(ctx context.Context, ids []string) bool {
	proxies, err := d.client.Proxies(ctx)
	if err != nil {
		return false
	}
	for _, id := range ids {
		if !slices.ContainsFunc(proxies, func(p xds.ProxyStatus) bool { return p.ID == id && p.Synced }) {
			return false
		}
	}
	return true
}

func (d *dev) ready(b pipeline.Built, took time.Duration) {
	d.say("ready in %s: %d hosts, %d proxies", took.Round(10*time.Millisecond), len(b.Policy.Hosts), b.View.Proxies.Len())
	for _, g := range b.Policy.Gateways {
		for _, s := range g.Servers {
			d.say("gateway %s: http://%s/", g.Name, s.Bind)
		}
	}
	d.say("look around: wattle status, wattle proxy status; edit %s and watch this; Ctrl-C ends it all", d.dir)
}

// server writes the server's configuration and says how to run it.
func (d *dev) server() (proc, error) {
	text := fmt.Sprintf("state_dir = %q\npolicy = %q\nhttp = %q\nagents = %q\n", filepath.Join(d.state, "server"), d.dir, d.http, d.agents)
	file := filepath.Join(d.state, "server.hcl")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return proc{}, err
	}
	args := []string{d.self, "server", "-config", file}
	for _, name := range slices.Sorted(maps.Keys(d.options.Vars)) {
		args = append(args, "-var", name+"="+d.options.Vars[name])
	}
	return proc{Name: "server", Args: args, Dir: d.state}, nil
}

// want lists the processes for policy: the server, an agent for each host, and the commands of its services.
func (d *dev) want(ctx context.Context, server proc, policy *configs.Policy) ([]proc, error) {
	want := []proc{server}
	for _, h := range policy.Hosts {
		agent, err := d.agent(ctx, h)
		if err != nil {
			return nil, err
		}
		want = append(want, agent)
		for _, s := range h.Services {
			if len(s.Command) > 0 {
				want = append(want, d.command(h, s))
			}
		}
	}
	return want, nil
}

// agent writes an agent's configuration, with a join token the first time.
func (d *dev) agent(ctx context.Context, h *configs.Host) (proc, error) {
	home := filepath.Join(d.state, h.Name)
	file := filepath.Join(home, "agent.hcl")
	p := proc{Name: "agent " + h.Name, Args: []string{d.self, "agent", "-config", file}, Dir: d.state, Show: brief}
	if d.joined[h.Name] {
		return p, nil
	}
	if err := os.MkdirAll(home, 0o700); err != nil {
		return p, err
	}
	token, err := d.client.CreateToken(ctx, api.TokenRequest{Node: h.Name})
	if err != nil {
		return p, fmt.Errorf("make a join token for %s: %w", h.Name, err)
	}
	tokenFile := filepath.Join(home, "token")
	if err := os.WriteFile(tokenFile, []byte(token.Token), 0o600); err != nil {
		return p, err
	}
	text := fmt.Sprintf("node = %q\nserver = [%q]\nstate_dir = %q\nrun_dir = %q\naddress = %q\nsource_address = %q\ntoken_file = %q\nenvoy = %q\nstop_proxies = true\n",
		h.Name, d.agents, filepath.Join(home, "state"), filepath.Join(home, "run"), h.Address, h.Address, tokenFile, d.envoy)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return p, err
	}
	d.joined[h.Name] = true
	d.say("host %s: %s, mesh port %d%s", h.Name, h.Address, h.MeshPort, runs(h))
	return p, nil
}

func runs(h *configs.Host) string {
	var names []string
	for _, s := range h.Services {
		names = append(names, label(s))
	}
	if len(names) == 0 {
		return ""
	}
	return ", runs " + strings.Join(names, ", ")
}

// label names a workload the way a person tells it from its siblings.
func label(s *configs.Service) string {
	name := s.Name
	if v := s.Meta["version"]; v != "" {
		name += "-" + v
	}
	if s.Instance != "" {
		name += "." + s.Instance
	}
	return name
}

// command says how to run a service's application. A relative program is relative to the policy folder.
func (d *dev) command(h *configs.Host, s *configs.Service) proc {
	argv := slices.Clone(s.Command)
	if strings.Contains(argv[0], "/") && !filepath.IsAbs(argv[0]) {
		argv[0] = filepath.Join(d.dir, argv[0])
	}
	env := make([]string, 0, len(s.Env))
	for k, v := range s.Env {
		env = append(env, k+"="+v)
	}
	slices.Sort(env)
	return proc{Name: label(s) + "@" + h.Name, Args: argv, Env: env, Dir: d.dir}
}

// need is an address that must be free, and what it is for.
type need struct{ address, what string }

// needs lists every address that the mesh of policy will listen on.
func needs(b pipeline.Built, http, agents string) []need {
	policy := b.Policy
	out := []need{{http, "the HTTP API (-http)"}, {agents, "the agents' port (-agents)"}}
	add := func(a netip.AddrPort, what string) {
		if a.IsValid() {
			out = append(out, need{a.String(), what})
		}
	}
	for _, h := range policy.Hosts {
		for _, port := range meshPorts(b, h.Name) {
			add(netip.AddrPortFrom(h.Address, port), fmt.Sprintf("the mesh port of host %s (%s)", h.Name, h.Origin))
		}
		for _, s := range h.Services {
			for _, p := range s.Ports {
				if len(s.Command) > 0 {
					add(p.Local, fmt.Sprintf("service %s (%s)", s.Name, s.Origin))
				}
			}
			for _, u := range s.Upstreams {
				add(u.Bind, fmt.Sprintf("upstream %s (%s)", u.Service.Name, u.Origin))
			}
		}
	}
	for _, g := range policy.Gateways {
		for _, s := range g.Servers {
			add(s.Bind, fmt.Sprintf("gateway %s (%s)", g.Name, s.Origin))
		}
	}
	return out
}

// meshPorts lists the mesh ports that a host's workloads have.
func meshPorts(b pipeline.Built, host string) []uint16 {
	var out []uint16
	for _, px := range b.View.On(host) {
		for _, w := range px.Workloads {
			out = append(out, w.MeshPort)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// free reports the first address that cannot be listened on.
func free(all []need) error {
	for _, n := range all {
		l, err := net.Listen("tcp", n.address)
		if err != nil {
			return fmt.Errorf("%s for %s cannot be used: %w; end what uses it (ss -ltnp shows it) or choose another address", n.address, n.what, err)
		}
		l.Close()
	}
	return nil
}
