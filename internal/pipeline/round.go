package pipeline

import (
	"fmt"
	"slices"
	"time"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/mesh"
	"github.com/wattle-mesh/wattle/registry"
	"github.com/wattle-mesh/wattle/registry/static"
	"github.com/wattle-mesh/wattle/translator"
)

// maxWarned bounds how many warnings a line of the log spells out.
const maxWarned = 10

// round is the loop goroutine's own state: what the stages last made.
type round struct {
	l        *Loop
	loader   *configs.Loader
	own      static.Memo         // the policy folder's services, pointers kept
	declared []*registry.Service // what it gave last
	disputed configs.Diagnostics // what their blocks disagree about
	pending  *configs.Policy     // loads, but names what no registry knows: tried again when the world changes
	read     configs.Diagnostics // the warnings with which it was loaded
	loaded   configs.Diagnostics // the warnings with which the policy in force was loaded
	refused  configs.Diagnostics // why the folder's policy is not in force; none: it is
	warned   configs.Diagnostics // about what is in force
	state    State
	pacer    pacer
	sets     []registry.Set     // what the registries say, as far as it may count now
	health   registry.HealthMap // likewise the agents
}

func newRound(l *Loop) (*round, error) {
	allotted, err := l.o.Revisions.Allotted()
	if err != nil {
		return nil, fmt.Errorf("read what was allotted: %w", err)
	}
	return &round{l: l, loader: configs.NewLoader(l.o.Config), state: State{View: &mesh.View{Allotted: allotted}, Step: l.State().Step}, pacer: pacer{gap: l.o.Pace}}, nil
}

// run brings a new policy into force if there is one and it is good; else the world's changes with the policy
// that is in force.
func (r *round) run(folder, world bool) {
	began := time.Now()
	if folder {
		r.load()
	}
	if world {
		r.sets, r.health = r.pacer.pace(r.l.o.Registries.Sets(), r.words(), began)
	}
	if r.pending != nil {
		// The first policy is taken as it is: there is nothing older to keep.
		next, diags := r.build(r.pending)
		if next != nil && (r.state.Policy == nil || !r.fresh(diags).HasErrors()) {
			r.pending = nil
			r.refuse(nil)
			r.commit(next, diags, began)
			return
		}
		r.refuse(diags)
	}
	if r.state.Policy == nil || !world {
		r.show(r.refused)
		return
	}
	next, diags := r.build(r.state.Policy)
	if next == nil {
		r.l.o.Log.Error("a change of the catalog cannot be translated, what is in force stays", "errors", diags.Error())
		r.show(diags)
		return
	}
	r.commit(next, diags, began)
}

// load reads the folder. A policy that differs from the one in force becomes pending.
func (r *round) load() {
	policy, diags := r.loader.Load(r.l.o.Dir)
	r.pending = nil
	switch {
	case diags.HasErrors():
		r.refuse(diags)
	case r.l.o.TrustDomain != "" && policy.Mesh.TrustDomain != r.l.o.TrustDomain:
		r.refuse(configs.Diagnostics{foreign(policy.Mesh, r.l.o.TrustDomain)})
	case Same(policy, r.state.Policy):
		r.refuse(nil)
	default:
		r.pending, r.read = policy, diags
	}
}

// refuse notes why the folder's policy is not in force, or with none that it is, and says so when that is news.
func (r *round) refuse(diags configs.Diagnostics) {
	was := r.refused
	r.refused = r.loader.Locate(diags)
	switch {
	case slices.Equal(was, r.refused):
	case len(diags) == 0:
		r.l.o.Log.Info("the policy folder is valid again")
	case r.state.Policy == nil:
		r.l.o.Log.Error("policy rejected, none is in force yet\n" + r.refused.Text())
	default:
		r.l.o.Log.Error(fmt.Sprintf("policy rejected, revision %d stays in force\n%s", r.state.Revision, r.refused.Text()))
	}
}

// warn notes what is wrong with what is in force, and says what of it is news.
func (r *round) warn(diags configs.Diagnostics, revision uint64) {
	was := r.warned
	r.warned = r.loader.Locate(warnings(diags))
	news := slices.DeleteFunc(slices.Clone(r.warned), func(d configs.Diagnostic) bool { return about(was, d) })
	if len(news) == 0 {
		return
	}
	more := ""
	if n := len(news) - maxWarned; n > 0 {
		news, more = news[:maxWarned], fmt.Sprintf("\n\nand %d more: see wattle status", n)
	}
	r.l.o.Log.Warn(fmt.Sprintf("revision %d is in force with warnings\n%s%s", revision, news.Text(), more))
}

// show publishes the state with what is wrong; if that is nothing, with the warnings of what is in force.
func (r *round) show(diags configs.Diagnostics) {
	s := r.state
	s.Rejected = len(r.refused) > 0
	s.Diagnostics = diags
	if len(diags) == 0 {
		s.Diagnostics = r.warned
	}
	r.state = s
	r.l.state.Store(&s)
}

// build takes a policy through the stages. It gives nil if the last of them fails.
func (r *round) build(policy *configs.Policy) (*State, configs.Diagnostics) {
	next := r.state
	next.Policy = policy
	if r.l.o.Facts != nil {
		r.own.Facts = r.l.o.Facts()
	}
	services := r.own.Services(policy)
	if !slices.Equal(services, r.declared) {
		r.declared, r.disputed = services, r.own.Diagnostics()
	}
	sets := append([]registry.Set{{Name: PolicySet, Services: services}}, r.sets...)
	next.Catalog = registry.Merge(r.state.Catalog, sets, r.health)
	var diags configs.Diagnostics
	next.View, diags = mesh.Resolve(r.state.View.Advance(r.moved()), next.Catalog, policy)
	diags = append(disputes(r.disputed, next.Catalog), diags...)
	out, err := translator.Translate(r.state.Output, next.View)
	if err != nil {
		return nil, append(diags, untranslatable(err))
	}
	next.Output = out
	return &next, diags
}

// fresh leaves out of what is wrong with a pending policy what is wrong with the one in force, too: a service that
// vanished must not keep other changes out.
func (r *round) fresh(diags configs.Diagnostics) configs.Diagnostics {
	if !diags.HasErrors() {
		return nil
	}
	_, old := r.build(r.state.Policy)
	return slices.DeleteFunc(slices.Clone(diags), func(d configs.Diagnostic) bool { return about(old, d) })
}

// about reports whether one of ds says what d says, maybe of another line.
func about(ds configs.Diagnostics, d configs.Diagnostic) bool {
	return slices.ContainsFunc(ds, func(o configs.Diagnostic) bool { return o.Code == d.Code && o.Summary == d.Summary })
}

// words returns what the agents say.
func (r *round) words() registry.HealthMap {
	if r.l.o.Health == nil {
		return nil
	}
	return r.l.o.Health()
}

// commit brings next into force and publishes what it changes.
func (r *round) commit(next *State, diags configs.Diagnostics, began time.Time) {
	n := news{what: "catalog: " + list(next.Catalog.Changed)}
	if next.Policy != r.state.Policy {
		next.Revision = r.number(next.Policy)
		n = news{fmt.Sprintf("revision %d: %s", next.Revision, describe(r.state.Policy, next.Policy)), true}
	}
	next.Rejected = len(r.refused) > 0
	next.Diagnostics = r.refused
	if next.Policy != r.state.Policy {
		r.loaded = r.read
	}
	r.warn(slices.Concat(r.loaded, diags), next.Revision)
	if !next.Rejected {
		next.Diagnostics = r.warned
	}
	if !next.View.Allotted.Equal(r.state.View.Allotted) {
		if err := r.l.o.Revisions.SetAllotted(next.View.Allotted); err != nil {
			r.l.o.Log.Error("keep what was allotted", "error", err)
		}
	}
	r.pacer.note(&r.state, next, began)
	first := !r.state.Ready
	next.Ready, next.Changed = true, began
	before, step := r.state.Step, newStep()
	step.Services, step.All = touched(next)
	next.Ages, next.Step = r.state.Ages.Next(step.Services, next.View.Amended, began), step
	r.state = *next
	r.l.state.Store(next)
	before.follow(step)
	if n.revision && r.l.o.OnPolicy != nil {
		r.l.o.OnPolicy(next.Policy)
	}
	r.l.publish(next.Output.Changes, n)
	if n.revision {
		r.loader.InForce()
	}
	if first {
		close(r.l.ready)
	}
}

// number gives a policy its revision: the number it had if it was in force when the server stopped.
func (r *round) number(p *configs.Policy) uint64 {
	sum, err := hash(p)
	if err == nil {
		var n uint64
		if n, err = r.l.o.Revisions.Revision(sum); err == nil {
			return n
		}
	}
	r.l.o.Log.Error("number the revision", "error", err)
	return r.state.Revision + 1
}
