package registry

import (
	"net/netip"
	"slices"
)

// Capture is how calls of a workload by name reach its proxy. Immutable.
type Capture struct {
	Mode             CaptureMode    `json:"mode"`
	Services         []Name         `json:"services"`                    // that it may call; sorted; the name Any stands for all of the namespace, the namespace Any beside it for all
	User             string         `json:"user,omitempty"`              // whose connections are redirected; empty: the unit's
	ExcludeAddresses []netip.Prefix `json:"exclude_addresses,omitempty"` // where connections go as they are; sorted
	ExcludePorts     []uint16       `json:"exclude_ports,omitempty"`     // likewise; sorted
	Origin           string         `json:"origin,omitempty"`
}

// CaptureMode says how much of a workload's calls is captured.
type CaptureMode string

// The modes of capture.
const (
	Loopback    CaptureMode = "loopback"    // names of services lead to addresses of the host
	Transparent CaptureMode = "transparent" // besides, what is sent elsewhere is redirected
)

// Any stands in Capture.Services for all names, or for all namespaces.
const Any = "*"

// Equal reports whether two captures, which may be nil, are the same, their Origins too.
func (c *Capture) Equal(o *Capture) bool {
	if c == nil || o == nil {
		return c == o
	}
	return c.Mode == o.Mode && c.User == o.User && c.Origin == o.Origin && slices.Equal(c.Services, o.Services) &&
		slices.Equal(c.ExcludeAddresses, o.ExcludeAddresses) && slices.Equal(c.ExcludePorts, o.ExcludePorts)
}

// Bound reports whether the upstream has an address or socket of its own. Without, it is called by its name.
func (u Upstream) Bound() bool { return u.Bind.IsValid() || u.Socket != "" }
