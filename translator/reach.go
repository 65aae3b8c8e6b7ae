package translator

import (
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/wattle-mesh/wattle/internal/mesh"
)

// reachOut is what a reach came to: the routes of its ports, which all listeners of all its callers share.
type reachOut struct{ parts []part }

// reachDraft is what a reach comes to, before it takes the place of what it was.
type reachDraft struct {
	key      string
	old, now *reachOut // now is nil: gone
	scope    *Scope
	errs     []error
}

// draftReach translates what changed of a reach. It changes nothing.
func (t *transaction) draftReach(key string) *reachDraft {
	old, _ := t.reaches.Get([]byte(key))
	if old == nil {
		old = &reachOut{}
	}
	d := &reachDraft{key: key, old: old}
	h := t.v.Reach(key)
	if h == nil {
		return d
	}
	d.now, d.scope = &reachOut{}, &Scope{Name: reachScope(key)}
	for _, r := range slices.Concat(h.Routes, h.Open) {
		if i := slices.IndexFunc(old.parts, func(o part) bool { return o.from == r }); i >= 0 && !t.remake {
			d.now.parts = append(d.now.parts, old.parts[i])
			continue
		}
		made, err := routes(r, outbound, "")
		if err != nil {
			d.errs = append(d.errs, err)
			continue
		}
		d.now.parts = append(d.now.parts, part{r, made})
	}
	for _, p := range d.now.parts {
		d.scope.Keys = append(d.scope.Keys, p.Key)
	}
	sortKeys(d.scope.Keys)
	for _, s := range h.Surface.Services {
		for _, p := range s.Ports {
			if !p.Missing {
				d.scope.Uses = append(d.scope.Uses, portScope(s.Service, p.Number))
			}
		}
	}
	slices.Sort(d.scope.Uses)
	return d
}

// putReach brings a draft into force.
func (t *transaction) putReach(d *reachDraft) {
	t.errs = append(t.errs, d.errs...)
	if d.now == nil {
		t.swap(resourcesOf(d.old.parts, nil), nil)
		t.reaches.Delete([]byte(d.key))
		t.scope(reachScope(d.key), nil)
		return
	}
	t.swap(resourcesOf(d.old.parts, d.now.parts), resourcesOf(d.now.parts, d.old.parts))
	t.reaches.Insert([]byte(d.key), d.now)
	t.scope(d.scope.Name, d.scope)
}

func (t *transaction) changedReaches() []string {
	if t.full {
		return union(t.prev.reaches, t.v.Reaches)
	}
	return t.v.Changed.Reaches
}

// others translates what becomes of requests to hosts that no other virtual host has, nil if nothing is said of them.
func (p *packer) others(r *mesh.Routes) *routev3.VirtualHost {
	route := &routev3.Route{Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}}}
	switch r.Others {
	case mesh.Refused:
		route.Action = &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{
			Status: 404,
			Body:   &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: "wattle: this workload may call no service of that name at this port\n"}},
		}}
	case mesh.Passed:
		route.Action = &routev3.Route_Route{Route: &routev3.RouteAction{
			ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: passedCluster}, Timeout: durationpb.New(0),
		}}
	default:
		return nil
	}
	return &routev3.VirtualHost{Name: "others", Domains: []string{"*"}, Routes: []*routev3.Route{route}}
}
