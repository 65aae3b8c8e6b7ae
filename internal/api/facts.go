package api

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/wattle-mesh/wattle/internal/api/apipb"
	"github.com/wattle-mesh/wattle/registry"
)

// What a host may say of itself.
const (
	maxFacts     = 64
	maxFact      = 256 // bytes of a value
	maxAlarms    = 16
	maxAlarmText = 512 // bytes; the rest is cut off
)

// FactPrefix is what labels that are facts begin with.
const FactPrefix = "host."

// FactName is what a fact, which has "host." before it as a label, or an alarm may be called.
var FactName = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$`)

// CheckFact says what is wrong with something that a host says of itself.
func CheckFact(name, value string) error {
	switch {
	case !FactName.MatchString(name):
		return fmt.Errorf("no fact can be called %q: lower-case letters, digits, dots, hyphens and underscores, at most 63", clip(name, 64))
	case value == "" || len(value) > maxFact || printable(value) != value || strings.TrimSpace(value) != value:
		return fmt.Errorf("fact %s: its value is empty, longer than %d bytes, or has what cannot be printed", name, maxFact)
	}
	return nil
}

// parseFacts reads what a host says of itself. The agent checked the same.
func parseFacts(facts map[string]string) (map[string]string, error) {
	if len(facts) > maxFacts {
		return nil, fmt.Errorf("%d facts, at most %d are taken", len(facts), maxFacts)
	}
	for name, value := range facts {
		if err := CheckFact(name, value); err != nil {
			return nil, err
		}
	}
	return facts, nil
}

// factLabels makes labels of facts, for the endpoints of the host.
func factLabels(facts map[string]string) registry.Labels {
	labels := make(map[string]string, len(facts))
	for name, value := range facts {
		labels[FactPrefix+name] = value
	}
	return registry.LabelsOf(labels)
}

// parseAlarms reads what a host wants people to know. What is too much is left out.
func parseAlarms(node string, list []*apipb.Alarm) []Alarm {
	var out []Alarm
	for _, a := range list[:min(len(list), maxAlarms)] {
		if FactName.MatchString(a.GetName()) {
			out = append(out, Alarm{Node: node, Name: a.GetName(), Text: printable(clip(a.GetText(), maxAlarmText))})
		}
	}
	slices.SortFunc(out, func(a, b Alarm) int { return strings.Compare(a.Name, b.Name) })
	return out
}
