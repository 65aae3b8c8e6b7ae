package configs

import "net/netip"

// Agent is the configuration of wattle agent.
type Agent struct {
	Node          string     `json:"node"`           // the host's name; empty: the token or certificate says it
	Servers       []string   `json:"server"`         // "host:port" of the servers, at least one
	StateDir      string     `json:"state_dir"`      // keys and certificates
	RunDir        string     `json:"run_dir"`        // sockets
	ServicesDir   string     `json:"services_dir"`   // workloads registered by files; empty: none
	Address       netip.Addr `json:"address"`        // of this host, as others reach it; invalid: as the server sees it
	SourceAddress netip.Addr `json:"source_address"` // local address to connect from; invalid: the system's choice
	Token         string     `json:"token,omitempty"`
	TokenFile     string     `json:"token_file,omitempty"`
	Envoy         string     `json:"envoy"`        // path or name of the Envoy binary; empty: $ENVOY, .bin/envoy or envoy on PATH
	Concurrency   uint32     `json:"concurrency"`  // worker threads of each Envoy; zero: 2, or as many as there are processors if fewer
	StopProxies   bool       `json:"stop_proxies"` // end the Envoys when the agent is ended in good order; default false: they live on
	LogLevel      string     `json:"log_level"`    // debug, info, warn, error
	LogFormat     string     `json:"log_format"`   // text, json
}

// LoadAgent reads an agent's configuration file.
func LoadAgent(file string) (*Agent, Diagnostics) { return &Agent{}, nil }

// DefaultAgent returns the commented default file of the agent.
func DefaultAgent() []byte { return nil }
