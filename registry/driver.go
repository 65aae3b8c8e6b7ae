package registry

import (
	"log/slog"

	"github.com/hashicorp/hcl/v2"
)

// Driver makes Sources of one kind of registry. registry/builtin lists those that are compiled in.
type Driver struct {
	Type string // the first label of a registry block: "static", "consul", ...
	// New decodes the body of a registry block. It connects to nothing and starts nothing. The Source is nil if
	// the diagnostics have errors.
	New func(hcl.Body, DriverOptions) (Source, hcl.Diagnostics)
	// Reach names the attributes and blocks of the body that say how the registry is reached and asked, not what is taken of
	// it: a change of these alone ends no hold.
	Reach []string
}

// DriverOptions are what a Driver gets besides the body.
type DriverOptions struct {
	Name   string             // the second label of the block
	Dir    string             // what relative paths start from; empty: the working folder
	Eval   *hcl.EvalContext   // to decode the body with; may be nil
	Log    *slog.Logger       // required
	Report func([]Diagnostic) // replaces what the Source had to say about its registry; nil: nobody listens
}
