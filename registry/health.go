package registry

import "slices"

// Voice is a kind of witness of an endpoint's health.
type Voice string

// The voices.
const (
	RegistryVoice Voice = "registry" // what a registry knows
	AgentVoice    Voice = "agent"    // the checks of the agent on the endpoint's host
	CheckVoice    Voice = "check"    // the server's active check of an endpoint whose host has no agent
)

// Word is what one voice says of an endpoint's health.
type Word struct {
	Voice  Voice  `json:"voice"`
	Source string `json:"source,omitempty"` // which registry
	Health Health `json:"health"`           // never empty: who says nothing has no word
	Reason string `json:"reason,omitempty"`
}

// HealthRule says which words make an endpoint healthy. The zero value is RegistryAndAgent.
type HealthRule string

// The rules. The server's active check stands for the agent's where there is no agent. A voice that says nothing is not asked; if none of those that the rule asks says anything, those that do
// are asked instead.
const (
	RegistryAndAgent HealthRule = "registry and agent"
	RegistryOrAgent  HealthRule = "registry or agent"
	RegistryAlone    HealthRule = "registry"
	AgentAlone       HealthRule = "agent"
)

// Judge returns what follows of the words, and why. Of several registries the worst word is the registry's. Draining is
// no judgement of health but somebody's wish: an endpoint that is healthy by the rule drains if any voice says so.
func (r HealthRule) Judge(words []Word) (Health, string) {
	registry, agent := worst(words, RegistryVoice), worst(words, AgentVoice, CheckVoice)
	out := registry
	switch {
	case registry.Health == "", r == AgentAlone && agent.Health != "":
		out = agent
	case agent.Health == "", r == RegistryAlone:
	case r == RegistryOrAgent && badness(agent.Health) < badness(registry.Health):
		out = agent
	case r != RegistryOrAgent && badness(agent.Health) > badness(registry.Health):
		out = agent
	}
	if out.Health == Healthy {
		if i := slices.IndexFunc(words, func(w Word) bool { return w.Health == Draining }); i >= 0 {
			out = words[i]
		}
	}
	return out.Health, out.Reason
}

// worst returns the worst word of some voices, the first of equal ones; the zero Word if they say nothing.
func worst(words []Word, voices ...Voice) Word {
	var out Word
	for _, w := range words {
		if slices.Contains(voices, w.Voice) && badness(w.Health) > badness(out.Health) {
			out = w
		}
	}
	return out
}

func badness(h Health) int { return slices.Index([]Health{"", Healthy, Draining, Unhealthy}, h) }
