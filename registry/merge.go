package registry

import iradix "github.com/hashicorp/go-immutable-radix/v2"

// inputs are what a catalog was merged from.
type inputs struct {
	sets   []Set
	health HealthMap
}

// Merge joins the sets, the earlier ones taking precedence, and what the agents say of their workloads' health.
// It is pure, and incremental relative to prev (nil for the first catalog): only services whose Service pointer or
// health differs from what prev was merged from are looked at.
func Merge(prev *Catalog, sets []Set, health HealthMap) *Catalog {
	c := &Catalog{Services: iradix.New[*Service](), conflicts: iradix.New[[]Diagnostic](), Gen: 1, inputs: inputs{sets, health}}
	return c
}
