package configs

import (
	"time"

	"github.com/hashicorp/hcl/v2"
)

// Server is the configuration of wattle server.
type Server struct {
	StateDir   string     `json:"state_dir"`  // keys, tokens, revisions
	Policy     string     `json:"policy"`     // the folder of policy files
	HTTP       string     `json:"http"`       // "127.0.0.1:7500": loopback only, or "unix:/path"
	Agents     string     `json:"agents"`     // "0.0.0.0:7501", where agents connect
	Names      []string   `json:"names"`      // DNS names and addresses in the server's certificate
	Registries []Registry `json:"registries"` // in the order of the file
	LogLevel   string     `json:"log_level"`  // debug, info, warn, error
	LogFormat  string     `json:"log_format"` // text, json
}

// Registry is one registry block. Its driver decodes Body with Eval.
type Registry struct {
	Type        string           `json:"type"` // the first label: which driver
	Name        string           `json:"name"` // the second label
	SyncTimeout time.Duration    `json:"sync_timeout"`
	Body        hcl.Body         `json:"-"`
	Eval        *hcl.EvalContext `json:"-"`
	Origin      string           `json:"origin,omitempty"`
	file        *source
}

// Diagnostics translates what a driver found in Body.
func (r *Registry) Diagnostics(ds hcl.Diagnostics) Diagnostics { return nil }

// source is a file that was read.
type source struct {
	path string // relative to the loaded folder
	data []byte
}

// LoadServer reads a server's configuration file.
func LoadServer(file string) (*Server, Diagnostics) { return &Server{}, nil }

// DefaultServer returns the commented default file of the server.
func DefaultServer() []byte { return nil }
