package dns

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"time"

	wire "github.com/miekg/dns"
)

const (
	defaultResolvConf = "/etc/resolv.conf"
	// reread is how often it is looked at.
	reread = 5 * time.Second
)

// addresses returns the resolvers that are to be asked: those of the block, or the machine's, as resolv.conf(5) has it.
func (c *config) addresses() ([]netip.AddrPort, error) {
	if len(c.resolvers) > 0 {
		return c.resolvers, nil
	}
	file, err := wire.ClientConfigFromFile(c.resolvConf)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("find the resolvers: %w; or name them in the registry block", err)
	}
	var out []netip.AddrPort
	if err == nil {
		for _, s := range file.Servers {
			if p, err := resolver(s); err == nil && !slices.Contains(out, p) && len(out) < maxResolvers {
				out = append(out, p)
			}
		}
	}
	if len(out) == 0 {
		out = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")}
	}
	return out, nil
}
