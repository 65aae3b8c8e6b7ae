package dns

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	wire "github.com/miekg/dns"
)

// File is the name of the file with the Config.
const File = "views.json"

// Config is what a resolver serves: one view of the mesh's names for each workload. The agent writes it, the resolver reads
// it. Immutable.
type Config struct {
	Views []View `json:"views"`
}

// View is what is answered at one address: the names that one workload may look up.
type View struct {
	// For says in the log whose it is: "shop/reviews".
	For string `json:"for"`
	// Address is where the resolver listens, at port 53, for UDP and TCP.
	Address netip.Addr `json:"address"`
	// Domain is the mesh's: "mesh". Nothing of it is asked elsewhere.
	Domain string `json:"domain"`
	// Namespace is the one in which short names are looked up. Empty: there are no short names.
	Namespace string `json:"namespace,omitempty"`
	// Names lead from a name with its namespace, without the domain, to an address: "reviews.default".
	Names map[string]netip.Addr `json:"names,omitempty"`
	// Forward has other names asked of the host's own resolvers. Otherwise they are refused.
	Forward bool `json:"forward,omitempty"`
}

// Marshal returns the text of a configuration; equal ones have equal texts.
func (c Config) Marshal() ([]byte, error) { return json.MarshalIndent(c, "", "  ") }

// Parse reads the text of a configuration. A view that cannot be served is left out, and part of the error.
func Parse(text []byte) (Config, error) {
	var all, c Config
	if err := json.Unmarshal(text, &all); err != nil {
		return Config{}, fmt.Errorf("the resolver's configuration: %w", err)
	}
	var errs []error
	taken := map[netip.Addr]string{}
	for _, v := range all.Views {
		v.Domain = strings.ToLower(strings.Trim(v.Domain, "."))
		_, ok := wire.IsDomainName(v.Domain)
		switch other, double := taken[v.Address]; {
		case !v.Address.IsValid() || v.Address.IsUnspecified():
			errs = append(errs, fmt.Errorf("%s: no address to listen at", v.For))
		case !ok || v.Domain == "":
			errs = append(errs, fmt.Errorf("%s: %q is no domain", v.For, v.Domain))
		case double:
			errs = append(errs, fmt.Errorf("%s: address %s is that of %s", v.For, v.Address, other))
		default:
			taken[v.Address] = v.For
			c.Views = append(c.Views, v)
		}
	}
	slices.SortFunc(c.Views, func(a, b View) int { return a.Address.Compare(b.Address) })
	return c, errors.Join(errs...)
}
