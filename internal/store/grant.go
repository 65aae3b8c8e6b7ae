package store

import (
	"fmt"
	"slices"
	"strings"
)

// Grant is which services a node may register and hold the identity of. A pattern is "namespace/name"; "*" stands
// for any namespace or any name as a whole; a name alone is one of the namespace "default". The zero Grant allows
// nothing. Gateways need none: the policy's run_on is their grant.
type Grant struct {
	Services []string `json:"services,omitempty"` // "shop/reviews", "ops/*", "*/*", "reviews"
}

// defaultNamespace is that of names without one.
const defaultNamespace = "default"

// Empty reports whether the grant allows nothing.
func (g Grant) Empty() bool { return len(g.Services) == 0 }

// Service reports whether the node may run the service and hold its identity.
func (g Grant) Service(namespace, name string) bool {
	return slices.ContainsFunc(g.Services, func(p string) bool {
		ns, n := split(p)
		return (ns == "*" || ns == namespace) && (n == "*" || n == name)
	})
}

func split(pattern string) (namespace, name string) {
	if ns, n, ok := strings.Cut(pattern, "/"); ok {
		return ns, n
	}
	return defaultNamespace, pattern
}

// Clean returns the grant sorted, without repeats and with every namespace written out. check says whether a
// namespace or name that is no "*" is one.
func (g Grant) Clean(check func(string) error) (Grant, error) {
	var out Grant
	for _, p := range g.Services {
		ns, n := split(p)
		for _, part := range []string{ns, n} {
			if part == "*" {
				continue
			}
			if err := check(part); err != nil {
				return Grant{}, fmt.Errorf("grant %q: %w; write namespace/name, and * for all", p, err)
			}
		}
		out.Services = append(out.Services, ns+"/"+n)
	}
	slices.Sort(out.Services)
	out.Services = slices.Compact(out.Services)
	return out, nil
}
