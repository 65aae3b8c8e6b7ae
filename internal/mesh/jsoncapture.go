package mesh

import (
	"net/netip"

	"github.com/wattle-mesh/wattle/registry"
)

type (
	reachJSON struct {
		Key       string               `json:"key"`
		Namespace string               `json:"namespace"`
		Mode      registry.CaptureMode `json:"mode"`
		Wanted    []string             `json:"wanted"`
		Services  []reachedJSON        `json:"services"`
		Routes    []string             `json:"routes"` // names of route configurations; the rules are the services'
	}
	reachedJSON struct {
		Service string            `json:"service"`
		Address uint16            `json:"address"` // counted from the first of each slice
		Ports   []reachedPortJSON `json:"ports"`
	}
	reachedPortJSON struct {
		Number   uint16            `json:"port"`
		Protocol registry.Protocol `json:"protocol"`
		Missing  bool              `json:"missing,omitempty"`
	}
	scopeCaptureJSON struct {
		Mode     registry.CaptureMode `json:"mode"`
		Slice    netip.Prefix         `json:"slice"`
		Redirect uint16               `json:"redirect_port,omitempty"`
		Reach    string               `json:"reach"`
	}
)

func (h *Reach) json() reachJSON {
	return reachJSON{
		Key: h.Key, Namespace: h.Namespace, Mode: h.Mode, Wanted: convert(h.Wanted, func(p Wanted) string { return p.Name.String() }),
		Services: convert(h.Surface.Services, (*Reached).json),
		Routes:   convert(append(h.Routes[:len(h.Routes):len(h.Routes)], h.Open...), func(r *Routes) string { return r.Name }),
	}
}

func (s *Reached) json() reachedJSON {
	return reachedJSON{s.Service.String(), s.Address, convert(s.Ports, func(p ReachedPort) reachedPortJSON { return reachedPortJSON(p) })}
}

func (c *ScopeCapture) json() *scopeCaptureJSON {
	if c == nil {
		return nil
	}
	return &scopeCaptureJSON{c.Mode, c.Slice, c.RedirectPort, c.Reach}
}
