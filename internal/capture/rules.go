// Package capture keeps one table of nftables on a host, "inet wattle": it leads what captured workloads send to their
// proxies, and guards places that only one workload may connect to. In come Rules, out goes the table, replaced as a whole;
// no other table is looked at.
package capture

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
)

// Rules are all that the table says. The zero value is no table. Immutable.
type Rules struct {
	// Exempt is the group of the proxies. Nothing that a process of it sends is redirected or refused, but for what Passed says.
	Exempt uint32 `json:"exempt"`
	// Passed is the priority (SO_PRIORITY) of the proxies' connections that carry to its destination what a workload sent
	// elsewhere: no door lets them in, since that would be to let everybody in who is captured. Zero: there are none.
	Passed    uint32     `json:"passed,omitempty"`
	Redirects []Redirect `json:"redirects,omitempty"`
	Doors     []Door     `json:"doors,omitempty"`
	Closed    []Closed   `json:"closed,omitempty"`
}

// Owner is by whom a workload's connections are known: a process is its if one of these fits. The zero value is nobody.
type Owner struct {
	UIDs   []uint32 `json:"uids,omitempty"`
	Groups []Cgroup `json:"cgroups,omitempty"`
}

// Nobody reports whether no process can be known as the owner.
func (o Owner) Nobody() bool { return len(o.UIDs)+len(o.Groups) == 0 }

// Cgroup is a control group of version 2, with all below it.
type Cgroup struct {
	Level uint32 `json:"level"` // how many are above it
	ID    uint64 `json:"id"`    // its inode's number
}

// Redirect leads what a workload sends over TCP to other hosts to its proxy.
type Redirect struct {
	For   string `json:"for"` // in errors
	Owner Owner  `json:"owner"`
	Port  uint16 `json:"port"` // of the proxy's listener at 127.0.0.1 and ::1
	// What goes to these addresses or ports is left alone. Loopback is in any case.
	ExcludeAddresses []netip.Prefix `json:"exclude_addresses,omitempty"`
	ExcludePorts     []uint16       `json:"exclude_ports,omitempty"`
}

// Door is a place on this host to which only some processes of this host may connect.
type Door struct {
	For string `json:"for"`
	// To is the address; the zero value stands for every address of this host but those of loopback.
	To    netip.Prefix `json:"to"`
	Port  uint16       `json:"port"` // zero: every port, of TCP and UDP; else one of TCP
	Owner Owner        `json:"owner"`
	Also  []uint32     `json:"also,omitempty"` // users who are let in besides the owner
}

// Closed is a port that takes no connections from other hosts.
type Closed struct {
	Address netip.Addr `json:"address"` // the zero value stands for every address of this host
	Port    uint16     `json:"port"`
}

// empty reports whether no table is needed.
func (r Rules) empty() bool { return len(r.Redirects)+len(r.Doors)+len(r.Closed) == 0 }

// version tells rules apart.
func (r Rules) version() string {
	text, err := json.Marshal(r)
	if err != nil {
		panic(err) // numbers and addresses only
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// check refuses what would harm the host.
func (r Rules) check() error {
	var errs []error
	for _, x := range r.Redirects {
		for _, uid := range x.Owner.UIDs {
			if uid == 0 {
				errs = append(errs, fmt.Errorf("%s: what root sends is not redirected: the agent and much else of the host is root", x.For))
			}
		}
		for _, g := range x.Owner.Groups {
			if g.Level == 0 || g.ID == 0 {
				errs = append(errs, fmt.Errorf("%s: the root of all control groups is not redirected", x.For))
			}
		}
		if x.Port == 0 {
			errs = append(errs, fmt.Errorf("%s: no port to redirect to", x.For))
		}
	}
	return errors.Join(errs...)
}
