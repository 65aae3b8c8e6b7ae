package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api/apipb"
	"github.com/wattle-mesh/wattle/internal/spiffe"
	"github.com/wattle-mesh/wattle/internal/store"
	"github.com/wattle-mesh/wattle/registry"
)

// What one node may report, and one registration may hold. A host that needs more is no host.
const (
	maxRegistrations = 256
	maxBody          = 64 << 10 // bytes
	maxHealth        = 1024
	maxReady         = 4   // proxies of one workload
	maxReason        = 512 // bytes; the rest is cut off
	maxOrigin        = 256 // bytes
	maxPorts         = 64
	maxUpstreams     = 1024
	maxChecks        = 64
	maxText          = 1024 // bytes of a path
	maxSocket        = 107  // bytes: what Linux allows

	minInterval = 100 * time.Millisecond
	maxInterval = 24 * time.Hour
	maxWeight   = 10_000
)

var (
	instanceName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?$`)
	protocols    = []string{"http", "http2", "grpc", "tcp"}
)

// parseRegistration decodes and checks what an agent registers. The agent checked the same when it read its files;
// but the agent's word is not to be relied on.
func parseRegistration(node string, r *apipb.Registration) (*configs.Service, error) {
	s, err := decodeService(r.GetBody())
	if err != nil {
		return nil, err
	}
	if s.Namespace != r.GetNamespace() || s.Name != r.GetService() || s.Instance != r.GetInstance() {
		return nil, fmt.Errorf("the registration is for %s/%s, but its body for %s/%s", clip(r.GetNamespace(), 64), clip(r.GetService(), 64), clip(s.Namespace, 64), clip(s.Name, 64))
	}
	s.Origin = origin(node, r.GetOrigin())
	if len(s.Endpoints) > 0 {
		return nil, errors.New("a host registers workloads, not endpoints elsewhere; those are declared in the policy, or at the server")
	}
	return s, CheckService(s)
}

func decodeService(body []byte) (*configs.Service, error) {
	if len(body) > maxBody {
		return nil, fmt.Errorf("%d bytes, at most %d are taken", len(body), maxBody)
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	s := new(configs.Service)
	if err := dec.Decode(s); err != nil {
		return nil, fmt.Errorf("its body: %s", clip(err.Error(), 200))
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("its body has more than one value")
	}
	s.Unit, s.TTL, s.DeregisterAfter = "", 0, 0 // between the host and its agent
	s.Command, s.Env = nil, nil                 // for wattle dev on the host itself; the environment may hold secrets
	return s, nil
}

// origin says where on the node a thing was declared: "h1:web.hcl:3".
func origin(node, file string) string {
	return node + ":" + printable(clip(file, maxOrigin))
}

// printable drops what would disturb a terminal or a log.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) && r != unicode.ReplacementChar {
			return r
		}
		return -1
	}, s)
}

// CheckService says what is wrong with a service that somebody declares over a network or a socket, where configs's loader
// has not seen to it. One without endpoints is a workload.
func CheckService(s *configs.Service) error {
	if err := spiffe.CheckName(s.Namespace); err != nil {
		return fmt.Errorf("namespace: %w", err)
	}
	if err := spiffe.CheckName(s.Name); err != nil {
		return err
	}
	switch {
	case s.Instance != "" && !instanceName.MatchString(s.Instance):
		return fmt.Errorf("no instance can be called %q", clip(s.Instance, 64))
	case s.Weight < 1 || s.Weight > maxWeight:
		return fmt.Errorf("weight %d is not from 1 to %d", s.Weight, maxWeight)
	case s.Mode != "" && s.Mode != "host" && s.Mode != "sidecar":
		return fmt.Errorf("unknown mode %q", clip(s.Mode, 64))
	}
	if err := registry.CheckMeta(s.Meta); err != nil {
		return fmt.Errorf("meta: %w", err)
	}
	if err := checkPorts(s); err != nil {
		return err
	}
	if err := checkChecks(s); err != nil {
		return err
	}
	if err := checkCapture(s); err != nil {
		return fmt.Errorf("capture: %w", err)
	}
	return checkUpstreams(s.Upstreams, s.Capture != nil)
}

// checkCapture refuses what no file of an agent could say.
func checkCapture(s *configs.Service) error {
	c := s.Capture
	if c == nil {
		return nil
	}
	transparent := c.Mode == configs.CaptureTransparent
	switch {
	case !transparent && c.Mode != configs.CaptureLoopback:
		return fmt.Errorf("there is no mode %q", clip(c.Mode, 64))
	case !transparent && (c.User != "" || len(c.ExcludeAddresses)+len(c.ExcludePorts) > 0):
		return errors.New("nothing is redirected without transparent")
	case transparent && c.User == "" && s.Unit == "":
		return errors.New("transparent needs a user or a unit")
	case c.User != "" && (!configs.UserName.MatchString(c.User) || c.User == "root" || strings.Trim(c.User, "0") == ""):
		return fmt.Errorf("%q is no user whose connections can be redirected", clip(c.User, 64))
	case len(c.Services) > maxUpstreams, len(c.ExcludeAddresses) > maxUpstreams, len(c.ExcludePorts) > maxUpstreams:
		return fmt.Errorf("it has more than %d services, addresses or ports", maxUpstreams)
	case slices.ContainsFunc(c.ExcludeAddresses, func(p netip.Prefix) bool { return !p.IsValid() }):
		return errors.New("exclude_addresses has what is no range of addresses")
	}
	for _, ref := range c.Services {
		if ref.Namespace != configs.Any && spiffe.CheckName(ref.Namespace) != nil || ref.Name != configs.Any && (spiffe.CheckName(ref.Name) != nil || ref.Namespace == configs.Any) {
			return fmt.Errorf("%q is no pattern of services", clip(ref.String(), 64))
		}
	}
	return nil
}

func checkPorts(s *configs.Service) error {
	ports := s.Ports
	if len(ports) == 0 || len(ports) > maxPorts {
		return fmt.Errorf("%d ports, a service has 1 to %d", len(ports), maxPorts)
	}
	for i, p := range ports {
		switch {
		case p.Number == 0:
			return errors.New("a port has no number")
		case i > 0 && ports[i-1].Number >= p.Number:
			return errors.New("the ports are not in order, or one is there twice")
		case !slices.Contains(protocols, p.Protocol):
			return fmt.Errorf("port %d: unknown protocol %q", p.Number, clip(p.Protocol, 64))
		case len(p.Name) > 128:
			return fmt.Errorf("port %d: its name is too long", p.Number)
		case len(s.Endpoints) == 0 && (!p.Local.IsValid() || p.Local.Port() == 0 || !machine(p.Local.Addr())):
			return fmt.Errorf("port %d: %s is no address where an application listens", p.Number, p.Local)
		}
	}
	return nil
}

// machine reports whether a is the address of one machine.
func machine(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && a.Zone() == "" && !a.Is4In6()
}

func checkChecks(s *configs.Service) error {
	if len(s.Checks) > maxChecks {
		return fmt.Errorf("%d checks, at most %d are taken", len(s.Checks), maxChecks)
	}
	for _, c := range s.Checks {
		switch {
		case c == nil || c.Type != "http" && c.Type != "tcp":
			return errors.New("a check is neither http nor tcp")
		case !slices.ContainsFunc(s.Ports, func(p configs.ServicePort) bool { return p.Number == c.Port }):
			return fmt.Errorf("a check is of port %d, which the service does not have", c.Port)
		case len(c.Path) > maxText || c.Path != "" && !strings.HasPrefix(c.Path, "/"):
			return errors.New("a check's path is too long, or does not begin with a slash")
		case time.Duration(c.Interval) < minInterval || time.Duration(c.Interval) > maxInterval:
			return fmt.Errorf("a check's interval is not from %s to %s", minInterval, maxInterval)
		case c.Timeout <= 0 || time.Duration(c.Timeout) > maxInterval:
			return fmt.Errorf("a check's timeout is not above 0 and up to %s", maxInterval)
		case c.Healthy < 1 || c.Healthy > 1000 || c.Unhealthy < 1 || c.Unhealthy > 1000:
			return errors.New("a check's thresholds are not from 1 to 1000")
		}
	}
	return nil
}

// checkUpstreams wants to know where each is bound, unless the workload's calls are captured.
func checkUpstreams(upstreams []*configs.Upstream, captured bool) error {
	if len(upstreams) > maxUpstreams {
		return fmt.Errorf("%d upstreams, at most %d are taken", len(upstreams), maxUpstreams)
	}
	for _, u := range upstreams {
		if u == nil {
			return errors.New("an upstream is empty")
		}
		if err := errors.Join(spiffe.CheckName(u.Service.Namespace), spiffe.CheckName(u.Service.Name)); err != nil {
			return fmt.Errorf("upstream: %w", err)
		}
		bind := u.Bind.IsValid() && u.Bind.Port() != 0 && u.Bind.Addr().IsLoopback() && machine(u.Bind.Addr())
		socket := path.IsAbs(u.Socket) && path.Clean(u.Socket) == u.Socket && len(u.Socket) <= maxSocket && printable(u.Socket) == u.Socket
		switch {
		case captured && !u.Bound():
		case u.Bind.IsValid() == (u.Socket != ""):
			return fmt.Errorf("upstream %s: it has either an address or a socket", u.Service.Name)
		case !bind && !socket:
			return fmt.Errorf("upstream %s: neither a loopback address with a port nor an absolute path", u.Service.Name)
		}
	}
	return nil
}

// stored makes what is kept of an accepted registration.
func stored(s *configs.Service) (store.Registration, error) {
	body, err := json.Marshal(s)
	return store.Registration{Namespace: s.Namespace, Service: s.Name, Instance: s.Instance, Body: body, Origin: s.Origin}, err
}

// proxyNames joins the names of proxies that a node says, without what is none.
func proxyNames(all []string) string {
	out := slices.DeleteFunc(slices.Clone(all[:min(len(all), maxReady)]), func(s string) bool { return !proxyName.MatchString(s) })
	return strings.Join(out, " ")
}

// parseHealth takes what a node says of its workloads.
func parseHealth(all []*apipb.HealthReport) ([]store.Health, error) {
	if len(all) > maxHealth {
		return nil, fmt.Errorf("health of %d workloads, at most %d are taken", len(all), maxHealth)
	}
	out := make([]store.Health, 0, len(all))
	for _, h := range all {
		if errors.Join(spiffe.CheckName(h.GetNamespace()), spiffe.CheckName(h.GetService())) != nil ||
			h.GetInstance() != "" && !instanceName.MatchString(h.GetInstance()) {
			continue // no workload can have that name
		}
		out = append(out, store.Health{
			Namespace: h.GetNamespace(), Service: h.GetService(), Instance: h.GetInstance(),
			Healthy: h.GetHealthy(), Reason: printable(clip(h.GetReason(), maxReason)),
			Drain: h.GetDrain(), Idle: h.GetDrain() != 0 && h.GetIdle(),
			Ready: proxyNames(h.GetReady()),
		})
	}
	slices.SortStableFunc(out, compareHealth)
	return slices.CompactFunc(out, func(a, b store.Health) bool { return compareHealth(a, b) == 0 }), nil
}
