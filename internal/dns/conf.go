package dns

import (
	"fmt"
	"slices"
	"strings"

	wire "github.com/miekg/dns"
)

// Conf returns the resolv.conf of the processes that a view is for: they ask the view, and find short names of its
// namespace. What else the host looks up names in, by its own file, stays.
func Conf(v View, hostFile string) string {
	search := []string{v.Domain}
	if v.Namespace != "" {
		search = []string{v.Namespace + "." + v.Domain, v.Domain}
	}
	dots := 1
	if c, err := wire.ClientConfigFromFile(hostFile); err == nil {
		for _, s := range c.Search {
			if s = strings.TrimSuffix(s, "."); s != "" && !slices.Contains(search, s) {
				search = append(search, s)
			}
		}
		dots = c.Ndots
	}
	text := fmt.Sprintf("# The Wattle agent's, of workload %s.\nnameserver %s\nsearch %s\n", v.For, v.Address, strings.Join(search, " "))
	if dots != 1 {
		text += fmt.Sprintf("options ndots:%d\n", dots)
	}
	return text
}
