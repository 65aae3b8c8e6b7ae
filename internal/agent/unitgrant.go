package agent

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api"
)

// unitGrants say which services the users of units may register. That somebody is the user of some unit is no reason to be any
// service that the host was granted: every user who logs in is one, of user@UID.service. What units are called, and what is
// in agent.hcl, only root decides.
type unitGrants []*configs.UnitGrant

// of returns the grant of a unit: its own, else its template's, else nil.
func (g unitGrants) of(unit string) *configs.UnitGrant {
	named := func(name string) *configs.UnitGrant {
		if i := slices.IndexFunc(g, func(u *configs.UnitGrant) bool { return u.Unit == name }); i >= 0 {
			return g[i]
		}
		return nil
	}
	if own := named(unit); own != nil {
		return own
	}
	if template, _, ok := strings.Cut(unit, "@"); ok {
		return named(template + "@.service")
	}
	return nil
}

// allow reports whether a unit may be a service. Without a grant it may be the one of its name, in the namespace default; an
// instance of a template none, as its name may be anybody's.
func (g unitGrants) allow(unit string, s *configs.Service) bool {
	if own := g.of(unit); own != nil {
		return slices.ContainsFunc(own.Services, func(ref configs.ServiceRef) bool {
			return (ref.Namespace == configs.Any || ref.Namespace == s.Namespace) && (ref.Name == configs.Any || ref.Name == s.Name)
		})
	}
	return s.Namespace == "default" && unit == s.Name+".service"
}

// check says why a unit may not be a service, with what root would have to write.
func (g unitGrants) check(uid uint32, unit string, s *configs.Service) error {
	if g.allow(unit, s) {
		return nil
	}
	name := s.Namespace + "/" + s.Name
	why, remedy := "it may be the service of its name only", fmt.Sprintf("have root write unit %q { services = [%q] } into agent.hcl and start the agent anew, or do it as root", unit, name)
	if own := g.of(unit); own != nil {
		why, remedy = "the unit block of agent.hcl does not list it", fmt.Sprintf("have root add %q to the block of unit %q in agent.hcl and start the agent anew, or do it as root", name, own.Unit)
	}
	return deny(http.StatusForbidden, api.CodeUser, remedy, "uid %d may not register %s for unit %s: %s", uid, name, unit, why)
}

// trusted reports whether a user may register whatever the host was granted.
func (d *desk) trusted(uid uint32) bool { return uid == root || uid == d.uid }
