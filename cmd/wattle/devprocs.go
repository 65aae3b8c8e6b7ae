package main

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/wattle-mesh/wattle/adapters/process"
	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api"
)

// defaultNamespace is what a service has that names none.
const defaultNamespace = "default"

// server says how to run the server: with the file of registries, or an empty one.
func (d *dev) server() (proc, error) {
	file := d.registries
	if file == "" {
		file = filepath.Join(d.state, "server.hcl")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			return proc{}, err
		}
	}
	args := []string{d.self, "server", "-config", file, "-state-dir", filepath.Join(d.state, "server"), "-policy", d.dir, "-http", d.http, "-agents", d.agents}
	for _, name := range slices.Sorted(maps.Keys(d.options.Vars)) {
		args = append(args, "-var", name+"="+d.options.Vars[name])
	}
	return proc{ID: "server", Name: "server", Args: args, Dir: d.state}, nil
}

// want lists the processes of a policy: the server, an agent for each host, and the commands of its services.
func (d *dev) want(ctx context.Context, server proc, policy *configs.Policy) ([]proc, error) {
	want := []proc{server}
	for _, h := range policy.Hosts {
		agent, err := d.agent(ctx, policy, h)
		if err != nil {
			return nil, err
		}
		want = append(want, agent)
	}
	return append(want, d.commands(policy)...), nil
}

// names lists what stands before the lines of a policy's processes, as want will name them.
func (d *dev) names(policy *configs.Policy) []string {
	var out []string
	for _, h := range policy.Hosts {
		out = append(out, agentName(h))
	}
	for _, p := range d.commands(policy) {
		out = append(out, p.Name)
	}
	return out
}

// commands lists the applications of a policy.
func (d *dev) commands(policy *configs.Policy) []proc {
	var out []proc
	for _, h := range policy.Hosts {
		for _, s := range h.Services {
			if len(s.Command) > 0 {
				out = append(out, d.command(h, s))
			}
		}
	}
	return out
}

func agentName(h *configs.Host) string { return "agent " + h.Name }

// agent writes an agent's configuration, with a join token the first time. The file's name has the address in it, so
// that a host that moves is another command. The agent of a host that is gone is needed until its Envoys have ended, which
// they do by themselves.
func (d *dev) agent(ctx context.Context, policy *configs.Policy, h *configs.Host) (proc, error) {
	home := filepath.Join(d.state, h.Name)
	run := filepath.Join(home, "run")
	file := filepath.Join(home, fmt.Sprintf("agent-%s.hcl", h.Address))
	p := proc{
		ID: agentName(h), Name: agentName(h), Args: []string{d.self, "agent", "-config", file}, Dir: d.state, Show: brief,
		Listens: listens(policy, h), Idle: func(context.Context) bool { return process.Ended(run) },
	}
	if _, err := os.Stat(file); err == nil {
		return p, nil
	}
	if err := os.MkdirAll(home, 0o700); err != nil {
		return p, err
	}
	tokenFile := filepath.Join(home, "token")
	if !d.joined[h.Name] {
		token, err := d.client.CreateToken(ctx, api.TokenRequest{Node: h.Name, Services: []string{"*/*"}})
		if err != nil {
			return p, fmt.Errorf("make a join token for %s: %w", h.Name, err)
		}
		if err := os.WriteFile(tokenFile, []byte(token.Token), 0o600); err != nil {
			return p, err
		}
		d.joined[h.Name] = true
	}
	text := fmt.Sprintf("node = %q\nserver = [%q]\nstate_dir = %q\nrun_dir = %q\naddress = %q\nsource_address = %q\ntoken_file = %q\nenvoy = %q\nstop_proxies = true\n",
		h.Name, d.agents, filepath.Join(home, "state"), run, h.Address, h.Address, tokenFile, d.envoy)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return p, err
	}
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

// label names a workload the way a person tells it from its siblings: "shop/reviews-v2.b". An instance that is called
// like its version says nothing new.
func label(s *configs.Service) string {
	name := s.Name
	if s.Namespace != defaultNamespace {
		name = s.Namespace + "/" + name
	}
	version := s.Meta["version"]
	if version != "" {
		name += "-" + version
	}
	if s.Instance != "" && s.Instance != version {
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
	id := strings.Join([]string{"app", h.Name, s.Namespace, s.Name, s.Instance}, "\x00") // more than the label says
	var at []netip.AddrPort
	for _, p := range s.Ports {
		at = append(at, p.Local)
	}
	return proc{
		ID: id, Name: label(s) + "@" + h.Name, Args: argv, Env: env, Dir: d.dir,
		Listens: at, Idle: func(ctx context.Context) bool { return d.letGo(ctx, h.Name, at) },
	}
}
