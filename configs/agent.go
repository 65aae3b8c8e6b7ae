package configs

import (
	_ "embed" // the default file
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"
)

// Agent is the configuration of wattle agent.
type Agent struct {
	Node          string     `json:"node,omitempty"` // the host's name; empty: the token or certificate says it
	Servers       []string   `json:"server"`         // "host:port" of the servers, at least one
	StateDir      string     `json:"state_dir"`      // keys and certificates
	RunDir        string     `json:"run_dir"`        // sockets
	ServicesDir   string     `json:"services_dir"`   // workloads registered by files; the folder may be missing
	FactsDir      string     `json:"facts_dir"`      // files that say what the host is; the folder may be missing
	Address       netip.Addr `json:"address"`        // of this host, as others reach it; invalid: as the server sees it
	SourceAddress netip.Addr `json:"source_address"` // local address to connect from; invalid: the system's choice
	Token         string     `json:"-"`              // a secret
	TokenFile     string     `json:"token_file,omitempty"`
	Envoy         string     `json:"envoy"`        // path or name of the Envoy binary
	Concurrency   uint32     `json:"concurrency"`  // worker threads of each Envoy; zero: 2, or as many as there are processors if fewer
	DrainTime     Duration   `json:"drain_time"`   // how long connections to an Envoy that goes may live on
	StopProxies   bool       `json:"stop_proxies"` // Envoys end when the agent is ended in good order, instead of living on
	Guard         bool       `json:"guard"`        // whether connections are refused that go round a workload's identity, where nftables may be used
	GuardAllow    []string   `json:"guard_allow"`  // users whose processes may connect to applications all the same
	LogLevel      string     `json:"log_level"`    // debug, info, warn, error
	LogFormat     string     `json:"log_format"`   // text, json

	Units []*UnitGrant `json:"units,omitempty"` // what users of units may register; of another unit the service of its name
}

//go:embed agent.hcl
var defaultAgent []byte

// DefaultAgent returns the commented default file of the agent.
func DefaultAgent() []byte { return slices.Clone(defaultAgent) }

// LoadAgent reads an agent's configuration file. The agent is nil if the diagnostics have errors. Relative paths
// in it are relative to its folder.
func LoadAgent(file string) (*Agent, Diagnostics) {
	a, diags := loadFile(file, agentBlock)
	if a != nil {
		base := filepath.Dir(file)
		a.StateDir, a.RunDir, a.ServicesDir, a.FactsDir = under(base, a.StateDir), under(base, a.RunDir), under(base, a.ServicesDir), under(base, a.FactsDir)
		a.TokenFile = under(base, a.TokenFile)
		if filepath.Base(a.Envoy) != a.Envoy { // a mere name is looked up in PATH
			a.Envoy = under(base, a.Envoy)
		}
	}
	return a, diags
}

// WithServers returns the text of an agent's file with other servers; all else stays as it is, comments too.
func WithServers(text []byte, servers []string) ([]byte, error) {
	f, diags := hclwrite.ParseConfig(text, "agent.hcl", hcl.InitialPos)
	if diags.HasErrors() {
		return nil, diags
	}
	var all []cty.Value
	for _, s := range servers {
		all = append(all, cty.StringVal(s))
	}
	f.Body().SetAttributeValue("server", cty.ListVal(all))
	return f.Bytes(), nil
}

var agentBlock = newBlock(block[Agent]{
	doc: "An agent's configuration, mostly `/etc/wattle/agent.hcl`. Relative paths are relative to the file.",
	attrs: []attr[Agent]{
		field("node", hostName(), func(a *Agent) *string { return &a.Node }, "The host's name.").orText("the token's or certificate's"),
		field("server", list(dialAddress(), 1), func(a *Agent) *[]string { return &a.Servers }, "The servers, tried in order.").must(),
		field("state_dir", text(), func(a *Agent) *string { return &a.StateDir }, "Where the agent keeps keys, certificates and registrations. Only its user may read it.").or(cty.StringVal("/var/lib/wattle/agent")),
		field("run_dir", text(), func(a *Agent) *string { return &a.RunDir }, "Where its sockets are. The agent makes it so that other users can reach agent.sock, through which workloads are registered; a folder that is there stays as it is.").or(cty.StringVal("/run/wattle")),
		field("services_dir", text(), func(a *Agent) *string { return &a.ServicesDir }, "The folder of workloads that are registered by files.").or(cty.StringVal("/etc/wattle/services.d")),
		field("facts_dir", text(), func(a *Agent) *string { return &a.FactsDir }, "The folder of files that say what this host is, by lines `NAME = VALUE`. They are labels of its endpoints, with `host.` before the name.").or(cty.StringVal("/etc/wattle/facts.d")),
		field("address", address(), func(a *Agent) *netip.Addr { return &a.Address }, "The address of this host, as others reach it.").orText("as the server sees it"),
		field("source_address", address(), func(a *Agent) *netip.Addr { return &a.SourceAddress }, "The local address to connect from.").orText("the system's choice"),
		field("token", text(), func(a *Agent) *string { return &a.Token }, "The join token, for the first start. token_file keeps it out of this file."),
		field("token_file", text(), func(a *Agent) *string { return &a.TokenFile }, "A file that holds the join token."),
		field("envoy", text(), func(a *Agent) *string { return &a.Envoy }, "The Envoy binary: a path, or a name that is looked up in PATH.").or(cty.StringVal("envoy")),
		field("concurrency", whole[uint32](1, 1024), func(a *Agent) *uint32 { return &a.Concurrency }, "Worker threads of each Envoy.").orText("2, or as many as there are processors if fewer"),
		field("drain_time", duration(time.Second, time.Hour), func(a *Agent) *Duration { return &a.DrainTime }, "How long an Envoy that stops or is replaced waits for the connections and requests that it has. One that was replaced ends after half as long again.").or(cty.StringVal("20s")),
		field("stop_proxies", boolean(), func(a *Agent) *bool { return &a.StopProxies }, "Whether the Envoys end when the agent is ended in good order. Otherwise they live on, and the next agent finds them.").or(cty.False),
		field("guard", boolean(), func(a *Agent) *bool { return &a.Guard }, "Whether connections are refused that go round a workload's identity: of other users or units to where it calls and to its application's ports, and of other hosts to these. Where the agent may not use nftables, which it says, there is no guard.").or(cty.True),
		field("guard_allow", list(text(), 0), func(a *Agent) *[]string { return &a.GuardAllow }, "Users of this host whose processes may connect to the applications' ports all the same, such as a monitoring agent's; names or numbers."),
		logLevelAttr(func(a *Agent) *string { return &a.LogLevel }),
		logFormatAttr(func(a *Agent) *string { return &a.LogFormat }),
	},
	blocks: []child[Agent]{
		many("unit", unitBlock, func(a *Agent) *[]*UnitGrant { return &a.Units }, "Which services the user of a unit may register. Without one that is the service of the namespace default that has the unit's name: of `web.service` it is `web`, of an instance of a template none."),
	},
	finish: func(d *decoder, a *Agent) {
		for i, u := range a.Units {
			if j := slices.IndexFunc(a.Units, func(o *UnitGrant) bool { return o.Unit == u.Unit }); j < i && u.Unit != "" {
				d.report(d.at(d.frame, "unit"), Error, codeDuplicate, fmt.Sprintf("unit %q is given twice", u.Unit), fmt.Sprintf("At %s and at %s. Put both into one.", a.Units[j].Origin, u.Origin))
			}
		}
		if a.Token != "" && a.TokenFile != "" {
			d.report(d.at(d.frame, "token_file"), Error, codeExactlyOne, "both token and token_file", "Remove one of them.")
		}
	},
})
