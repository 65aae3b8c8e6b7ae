package main

import (
	"cmp"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api"
)

// declareFlags say what is registered, beside a file or instead of one.
type declareFlags struct {
	cmd                                             *cobra.Command
	name, namespace, instance, local, unit, address string
	ports, meta, checks                             []string
	weight                                          uint32
	ttl, deregisterAfter                            time.Duration
}

func newDeclareFlags(cmd *cobra.Command) *declareFlags {
	f := &declareFlags{cmd: cmd}
	fl := cmd.Flags()
	fl.StringVar(&f.name, "name", "", "the service's `NAME`")
	fl.StringVar(&f.namespace, "namespace", "", "its `NAMESPACE` (default \"default\")")
	fl.StringVar(&f.instance, "instance", "", "tells several `INSTANCE`s of the service on one host apart; of one at an address it is that by default")
	fl.StringArrayVar(&f.ports, "port", nil, "the port that callers ask for: `[NAME=]NUMBER[/PROTOCOL]`, PROTOCOL http, http2, grpc or tcp; may be repeated")
	fl.StringVar(&f.local, "local", "", "where the application listens, if not at the same port of 127.0.0.1: a port, or `ADDRESS:PORT`; for one port")
	fl.StringArrayVar(&f.meta, "meta", nil, "a label that subsets select on, `KEY=VALUE`; may be repeated")
	fl.StringArrayVar(&f.checks, "check", nil, "a health check that the agent runs: tcp, http or `http=/PATH`; may be repeated")
	fl.Uint32Var(&f.weight, "weight", 1, "its share of the calls, 1 to 10000")
	fl.StringVar(&f.unit, "unit", "", "the systemd `UNIT` that runs it, whose user may register it if it has the unit's name or agent.hcl lists it")
	fl.DurationVar(&f.ttl, "ttl", 0, "how long a heartbeat counts, 1s to 24h; 0s: none are needed")
	fl.DurationVar(&f.deregisterAfter, "deregister-after", 0, "deregister what was silent for so long, ttl to 720h; 0s: never")
	addressFlag(cmd, &f.address)
	return f
}

func addressFlag(cmd *cobra.Command, into *string) {
	cmd.Flags().StringVar(into, "address", "", "the `ADDRESS` of a service without an agent, which is registered at the server")
}

// wrong makes an error the user's.
func wrong(format string, args ...any) error { return &invalid{fmt.Errorf(format, args...)} }

// refs reads the names of registrations; with an address the instance that is called by it.
func (r *refFlags) refs(names []string) ([]api.ServiceRef, error) {
	var out []api.ServiceRef
	for _, name := range names {
		ref, err := r.ref(name)
		if err != nil {
			return nil, err
		}
		if r.address != "" && ref.Instance == "" {
			a, err := netip.ParseAddr(r.address)
			if err != nil {
				return nil, wrong("-address %s is no IP address", r.address)
			}
			ref.Instance = api.InstanceAt(a.Unmap())
		}
		out = append(out, ref)
	}
	return out, nil
}

// services returns what is to be registered: what the file declares, with the flags that may stand beside one, or what the
// flags say.
func (f *declareFlags) services(stderr io.Writer, file []string) ([]*configs.Service, error) {
	if len(file) == 0 {
		s, err := f.service()
		if err != nil {
			return nil, err
		}
		return []*configs.Service{s}, nil
	}
	for _, name := range []string{"name", "namespace", "instance", "port", "local", "meta", "check", "weight", "address"} {
		if f.cmd.Flags().Changed(name) {
			return nil, wrong("-%s beside a file: write it into %s", name, file[0])
		}
	}
	if _, err := os.Stat(file[0]); err != nil {
		return nil, wrong("%w; FILE is a file of service blocks, or a folder of such files; without one say -name and -port", err)
	}
	policy, diags := configs.ParseServices(file[0])
	if err := refuse(stderr, diags); err != nil {
		return nil, err
	}
	path, err := filepath.Abs(file[0])
	if err != nil {
		return nil, err
	}
	if len(policy.Hosts) > 0 {
		return nil, wrong("%s: a host block is for the policy, and for static registries; register services", policy.Hosts[0].Origin)
	}
	if len(policy.Services) == 0 {
		return nil, wrong("%s has no service block", file[0])
	}
	for i, s := range policy.Services {
		c := *s
		c.Origin = filepath.Join(filepath.Dir(path), s.Origin)
		if info := filepath.Base(path); !strings.HasPrefix(s.Origin, info) { // a folder's
			c.Origin = filepath.Join(path, s.Origin)
		}
		if len(c.Endpoints) > 0 && c.Instance == "" {
			c.Instance = api.InstanceAt(c.Endpoints[0].Address)
		}
		if err := f.lease(&c); err != nil {
			return nil, err
		}
		if elsewhere := policy.Services[0].Endpoints; (len(c.Endpoints) > 0) != (len(elsewhere) > 0) {
			return nil, wrong("%s: service %s and the one at %s are registered at two places, the agent and, what has endpoint blocks, the server: write them into two files", c.Origin, c.Name, policy.Services[0].Origin)
		}
		policy.Services[i] = &c
	}
	return policy.Services, nil
}

// lease adds what flags say of heartbeats and the unit.
func (f *declareFlags) lease(s *configs.Service) error {
	s.TTL = cmp.Or(configs.Duration(f.ttl), s.TTL)
	s.DeregisterAfter = cmp.Or(configs.Duration(f.deregisterAfter), s.DeregisterAfter)
	s.Unit = cmp.Or(f.unit, s.Unit)
	switch {
	case f.ttl != 0 && (f.ttl < configs.MinTTL || f.ttl > configs.MaxTTL):
		return wrong("-ttl %s: it is from 1s to 24h", f.ttl)
	case f.deregisterAfter != 0 && (s.TTL == 0 || s.DeregisterAfter < s.TTL || f.deregisterAfter > configs.MaxDeregisterAfter):
		return wrong("-deregister-after %s: it needs a -ttl, is not shorter than that, and is at most 720h", f.deregisterAfter)
	case s.Unit != "" && !configs.UnitName.MatchString(s.Unit):
		return wrong("-unit %s: write the whole name of a service unit: web.service", s.Unit)
	}
	return nil
}

// service makes a service of the flags.
func (f *declareFlags) service() (*configs.Service, error) {
	if f.name == "" || len(f.ports) == 0 {
		return nil, wrong("say what to register: a FILE, or -name and -port")
	}
	s := &configs.Service{Instance: f.instance, Weight: f.weight, Meta: map[string]string{}}
	s.Name, s.Namespace = f.name, first(f.namespace, "default")
	for _, text := range f.ports {
		p, err := parsePort(text)
		if err != nil {
			return nil, err
		}
		s.Ports = append(s.Ports, p)
	}
	slices.SortFunc(s.Ports, func(a, b configs.ServicePort) int { return cmp.Compare(a.Number, b.Number) })
	for _, text := range f.meta {
		k, v, ok := strings.Cut(text, "=")
		if _, twice := s.Meta[k]; !ok || k == "" || twice {
			return nil, wrong("-meta %s: write KEY=VALUE, each key once", text)
		}
		s.Meta[k] = v
	}
	if len(s.Meta) == 0 {
		s.Meta = nil
	}
	if err := f.where(s); err != nil {
		return nil, err
	}
	for _, text := range f.checks {
		c, err := parseCheck(text, s.Ports[0].Number)
		if err != nil {
			return nil, err
		}
		s.Checks = append(s.Checks, c)
	}
	if err := f.lease(s); err != nil {
		return nil, err
	}
	if err := api.CheckService(s); err != nil {
		return nil, wrong("service %s: %w", f.name, err)
	}
	return s, nil
}

// where says where the service is: at an address elsewhere, or where the application listens here.
func (f *declareFlags) where(s *configs.Service) error {
	if f.address != "" {
		a, err := netip.ParseAddr(f.address)
		if err != nil {
			return wrong("-address %s is no IP address", f.address)
		}
		if f.local != "" || len(f.checks) > 0 || f.unit != "" {
			return wrong("-local, -check and -unit are for workloads of hosts with an agent, not for what is at an -address")
		}
		s.Instance = first(s.Instance, api.InstanceAt(a.Unmap()))
		for _, p := range s.Ports {
			s.Endpoints = append(s.Endpoints, &configs.Endpoint{Address: a.Unmap(), Port: p.Number, PortFor: p.Number, Weight: f.weight})
		}
		s.Weight = 1
		return nil
	}
	for i := range s.Ports {
		s.Ports[i].Local = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), s.Ports[i].Number)
	}
	if f.local == "" {
		return nil
	}
	if len(s.Ports) != 1 {
		return wrong("-local is for one port; write several into a file")
	}
	if n, err := strconv.ParseUint(f.local, 10, 16); err == nil && n > 0 {
		s.Ports[0].Local = netip.AddrPortFrom(s.Ports[0].Local.Addr(), uint16(n))
		return nil
	}
	a, err := netip.ParseAddrPort(f.local)
	if err != nil {
		return wrong("-local %s: write a port, or an address and port such as 127.0.0.1:8080", f.local)
	}
	s.Ports[0].Local = a
	return nil
}

// parsePort reads [NAME=]NUMBER[/PROTOCOL].
func parsePort(text string) (configs.ServicePort, error) {
	p := configs.ServicePort{Protocol: "http"}
	rest := text
	if name, after, ok := strings.Cut(text, "="); ok {
		p.Name, rest = name, after
	}
	number, protocol, ok := strings.Cut(rest, "/")
	if ok {
		p.Protocol = protocol
	}
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil || n == 0 || !slices.Contains([]string{"http", "http2", "grpc", "tcp"}, p.Protocol) {
		return p, wrong("-port %s: write NUMBER, NUMBER/PROTOCOL or NAME=NUMBER/PROTOCOL: 1 to 65535; http, http2, grpc or tcp", text)
	}
	p.Number = uint16(n)
	return p, nil
}

// parseCheck reads tcp, http or http=/PATH.
func parseCheck(text string, port uint16) (*configs.Check, error) {
	kind, path, given := strings.Cut(text, "=")
	c := &configs.Check{Type: kind, Port: port, Path: path, Interval: configs.Duration(5 * time.Second), Timeout: configs.Duration(2 * time.Second), Healthy: 1, Unhealthy: 2}
	if kind == "http" && !given {
		c.Path = "/"
	}
	if kind != "tcp" && kind != "http" || kind == "tcp" && given || kind == "http" && !strings.HasPrefix(c.Path, "/") {
		return nil, wrong("-check %s: write tcp, http or http=/PATH", text)
	}
	return c, nil
}

// hostPort is where an endpoint listens.
func hostPort(e *configs.Endpoint) string {
	return netip.AddrPortFrom(e.Address, cmp.Or(e.Port, e.PortFor)).String()
}
