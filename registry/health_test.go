package registry

import (
	"testing"

	"pgregory.net/rapid"
)

func TestHealthRules(t *testing.T) {
	const consul, nomad, agent = "consul says so", "nomad says so", "the agent says so"
	for _, c := range []struct {
		name                 string
		rule                 HealthRule
		consul, nomad, agent Health
		want                 Health
		why                  string
	}{
		{"nobody says anything", "", "", "", "", "", ""},
		{"the default needs both", "", Healthy, "", Unhealthy, Unhealthy, agent},
		{"both say it is healthy", RegistryAndAgent, Healthy, "", Healthy, Healthy, consul},
		{"one registry of two objects", RegistryAndAgent, Healthy, Unhealthy, Healthy, Unhealthy, nomad},
		{"or: the agent knows better than the registry", RegistryOrAgent, Unhealthy, "", Healthy, Healthy, agent},
		{"or: the registry knows better than the agent", RegistryOrAgent, Healthy, "", Unhealthy, Healthy, consul},
		{"or: neither finds it healthy", RegistryOrAgent, Unhealthy, "", Unhealthy, Unhealthy, consul},
		{"or without an agent", RegistryOrAgent, Unhealthy, "", "", Unhealthy, consul},
		{"the registry alone", RegistryAlone, Healthy, "", Unhealthy, Healthy, consul},
		{"the registry alone, which says nothing", RegistryAlone, "", "", Unhealthy, Unhealthy, agent},
		{"the agent alone", AgentAlone, Unhealthy, "", Healthy, Healthy, agent},
		{"the agent alone, where there is none", AgentAlone, Unhealthy, "", "", Unhealthy, consul},
		{"draining is whoever's wish", AgentAlone, Draining, "", Healthy, Draining, consul},
		{"the agent drains", RegistryAlone, Healthy, "", Draining, Draining, agent},
		{"what is dead does not drain", "", Draining, "", Unhealthy, Unhealthy, agent},
		{"or: it drains as long as one finds it healthy", RegistryOrAgent, Draining, "", Unhealthy, Draining, consul},
	} {
		t.Run(c.name, func(t *testing.T) {
			var words []Word
			for _, w := range []Word{{RegistryVoice, "consul", c.consul, consul}, {RegistryVoice, "nomad", c.nomad, nomad}, {AgentVoice, "", c.agent, agent}} {
				if w.Health != "" {
					words = append(words, w)
				}
			}
			if h, why := c.rule.Judge(words); h != c.want || why != c.why {
				t.Errorf("got %q (%s), want %q (%s)", h, why, c.want, c.why)
			}
		})
	}
}

// A word that gets worse makes no endpoint better, whatever the rule.
func TestHealthRulesAreMonotone(t *testing.T) {
	states := []Health{Healthy, Draining, Unhealthy}
	rapid.Check(t, func(t *rapid.T) {
		rule := rapid.SampledFrom([]HealthRule{"", RegistryAndAgent, RegistryOrAgent, RegistryAlone, AgentAlone}).Draw(t, "rule")
		words := []Word{{Voice: RegistryVoice, Source: "a"}, {Voice: RegistryVoice, Source: "b"}, {Voice: AgentVoice}}
		for i := range words {
			words[i].Health = rapid.SampledFrom(states).Draw(t, "health")
		}
		before, _ := rule.Judge(words)
		i := rapid.IntRange(0, 2).Draw(t, "which")
		if words[i].Health == Draining {
			return // what dies does not drain any more
		}
		words[i].Health = rapid.SampledFrom(states[badness(words[i].Health)-1:]).Draw(t, "worse")
		if after, _ := rule.Judge(words); badness(after) < badness(before) {
			t.Fatalf("%q became %q by %v", before, after, words)
		}
	})
}
