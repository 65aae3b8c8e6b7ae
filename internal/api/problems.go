package api

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/registry"
	"github.com/wattle-mesh/wattle/registry/static"
)

// What is taken, and what is kept, of what a node finds wrong with its declarations.
const (
	maxProblemText = 256 << 10 // bytes
	maxProblems    = 10
)

// parseProblems reads what a node finds wrong with its declarations.
func parseProblems(node string, text []byte) ([]registry.Diagnostic, error) {
	if len(text) == 0 {
		return nil, nil
	}
	if len(text) > maxProblemText {
		return nil, fmt.Errorf("problems of %d bytes, at most %d are taken", len(text), maxProblemText)
	}
	var ds configs.Diagnostics
	if err := json.Unmarshal(text, &ds); err != nil {
		return nil, fmt.Errorf("problems: %s", clip(err.Error(), 200))
	}
	ds = ds[:min(len(ds), maxProblems)]
	for i, d := range ds {
		ds[i] = d.Bounded()
		ds[i].File = origin(node, d.File)
	}
	return static.Diagnostics(ds), nil
}

// problems lists what is wrong with what agents declare, and what they disagree about. The caller holds r.mu.
func (r *Registrar) problems() []registry.Diagnostic {
	out := static.Diagnostics(r.memo.Diagnostics())
	out = append(out, r.displaced()...)
	for _, name := range slices.Sorted(maps.Keys(r.hosts)) {
		out = append(out, r.hosts[name].said.problems...)
	}
	return out
}
