package configs

import (
	"fmt"
	"slices"
	"strings"
)

// guarded is a policy in force, with the text that it came from.
type guarded struct {
	policy *Policy
	files  map[string]*source
}

// InForce says that the policy of the last load is in force. From then on a load fails when one of its files is gone
// and with it blocks that stand nowhere else: a file that vanishes may be an accident, or half of a deployment.
func (l *Loader) InForce() {
	if l.policy == nil {
		return
	}
	l.guarded = guarded{policy: l.policy, files: make(map[string]*source, len(l.files))}
	for path, f := range l.files {
		l.guarded.files[path] = f.src
	}
}

// AllowRemovals lets the next load lack files of the policy that is in force.
func (l *Loader) AllowRemovals() {
	l.allowed = true
	l.forget()
}

// declared is a block of a policy.
type declared struct {
	kind, name, origin string
}

// blocks calls yield with every block of the policy.
func (p *Policy) blocks(yield func(declared)) {
	if p.Mesh.Origin != "" {
		yield(declared{"mesh", "", p.Mesh.Origin})
	}
	for _, v := range p.VirtualServices {
		yield(v.declared("virtual_service"))
	}
	for _, r := range p.DestinationRules {
		yield(r.declared("destination_rule"))
	}
	for _, g := range p.Gateways {
		yield(g.declared("gateway"))
	}
	for _, h := range p.Hosts {
		yield(declared{"host", h.Name, h.Origin})
	}
	for _, s := range p.Services {
		yield(s.block())
	}
}

// block is the service as it is told from others.
func (s *Service) block() declared {
	d := s.declared("service")
	d.name = strings.TrimSuffix(d.name+"/"+s.Instance, "/")
	return d
}

func (b *Block) declared(kind string) declared {
	return declared{kind, strings.TrimPrefix(b.Namespace+"/"+b.Name, "default/"), b.Origin}
}

// removed finds the files of the policy in force that are gone, with blocks that the new policy lacks.
func (l *Loader) removed(now *Policy) Diagnostics {
	before := l.guarded
	if !l.lacks(before.files) {
		return nil
	}
	kept := map[declared]bool{}
	now.blocks(func(d declared) { kept[declared{kind: d.kind, name: d.name}] = true })
	lost := map[string][]declared{} // by file
	before.policy.blocks(func(d declared) {
		file, _, _ := splitOrigin(d.origin)
		if l.files[file] == nil && !kept[declared{kind: d.kind, name: d.name}] {
			lost[file] = append(lost[file], d)
		}
	})
	var diags Diagnostics
	for file, blocks := range lost {
		diags = append(diags, fileRemoved(before.files[file], blocks))
	}
	return diags.Sort()
}

// lacks reports whether the folder has not all of these files any more.
func (l *Loader) lacks(files map[string]*source) bool {
	for path := range files {
		if l.files[path] == nil {
			return true
		}
	}
	return false
}

// maxLost bounds how many blocks of a removed file are named.
const maxLost = 3

// fileRemoved points at the first block that left with a file.
func fileRemoved(src *source, blocks []declared) Diagnostic {
	lineOf := func(d declared) int {
		_, line, _ := splitOrigin(d.origin)
		return line
	}
	slices.SortStableFunc(blocks, func(a, b declared) int { return lineOf(a) - lineOf(b) })
	var names []string
	for _, b := range blocks[:min(len(blocks), maxLost)] {
		names = append(names, strings.TrimSpace(b.kind+" "+b.name))
	}
	what := strings.Join(names, ", ")
	if n := len(blocks) - maxLost; n > 0 {
		what += fmt.Sprintf(" and %d more", n)
	}
	d := NewDiagnostic(Error, codeRemoved, blocks[0].origin, src.path+" was removed while it is in force, with "+what,
		"Put it back. If what it declared shall go, say so: wattle policy accept. Or remove its blocks first, then the file.")
	if at, ok := outlineOf(src).find(d.Line, Part{Block: blocks[0].kind}); ok {
		return at.diagnostic(Error, d.Code, d.Summary, d.Detail)
	}
	return d
}
