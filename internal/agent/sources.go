package agent

import (
	"github.com/wattle-mesh/wattle/internal/mesh/planpb"
	"github.com/wattle-mesh/wattle/translator"
)

// sources are the values that secrets were last made of.
type sources struct {
	cred *credential
	held map[string]*leaf
}

func (s sources) equal(o sources) bool {
	if s.cred != o.cred || len(s.held) != len(o.held) {
		return false
	}
	for id, l := range s.held {
		if o.held[id] != l {
			return false
		}
	}
	return true
}

// secrets makes the secrets of this proxy when what they are made of has changed.
func (r *relay) secrets(plan *planpb.HostPlan, held holdings, cred *credential) {
	leaves := map[string]*leaf{}
	for _, id := range r.identities(plan) {
		if h := held[id]; h.leaf != nil {
			leaves[id] = h.leaf
		}
	}
	now := sources{cred, leaves}
	if r.last.equal(now) {
		return
	}
	secrets, err := makeSecrets(cred, leaves)
	if err == nil {
		var changes translator.Changes
		changes, err = r.table.setSecrets(secrets)
		if !changes.Empty() {
			r.local.Apply(changes)
		}
	}
	if err != nil {
		r.o.Log.Error("cannot make the secrets", "proxy", r.o.ID, "error", err)
	}
	r.last = now
}

func (r *relay) identities(plan *planpb.HostPlan) []string {
	for _, p := range plan.GetProxies() {
		if p.GetId() == r.o.ID {
			return p.GetIdentities()
		}
	}
	return nil
}
