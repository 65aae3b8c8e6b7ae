package archtest

// anything lets a package import all of ours that no rule in never forbids.
const anything = "*"

// ours lists, for every package of the module, which of the others its non-test files may import. A new package
// must be put in here. "registry/*" stands for the folders right below registry.
var ours = map[string][]string{
	// The leaves.
	"configs":              {},
	"registry":             {},
	"internal/spiffe":      {},
	"internal/api/apipb":   {},
	"internal/mesh/planpb": {},

	// The registries. registry/static reads the policy's language; other drivers see registry alone.
	"registry/static":       {"configs", "registry"},
	"registry/consul":       {"registry"},
	"registry/dns":          {"registry"},
	"registry/etcd":         {"registry"},
	"registry/nomad":        {"registry"},
	"registry/builtin":      {"registry", "registry/*"},
	"registry/registrytest": {"registry"},

	// The stages, in the order of the flow.
	"internal/mesh":     {"configs", "registry", "internal/spiffe"},
	"translator":        {"configs", "registry", "internal/mesh", "internal/mesh/planpb", "internal/spiffe"},
	"internal/pipeline": {"configs", "registry", "registry/static", "internal/mesh", "translator"},
	"internal/xds":      {"translator"},

	// Servers and agents.
	"internal/drain": {"registry", "internal/mesh", "internal/pipeline", "translator"},
	"internal/ca":    {"internal/seal", "internal/spiffe"},
	"internal/store": {"registry", "internal/mesh"},
	"internal/api": {"configs", "registry", "internal/api/apipb", "internal/ca", "internal/mesh", "internal/pipeline",
		"internal/spiffe", "internal/store", "internal/xds", "registry/static"},
	"internal/probe":  {},
	"internal/doctor": {"internal/api"},
	"internal/facts":  {},
	"internal/agent": {"adapters", "configs", "internal/facts", "internal/admin", "internal/api", "internal/api/apipb", "internal/capture", "internal/dns", "internal/launch", "internal/lkg", "internal/mesh/planpb", "internal/probe", "internal/seal", "internal/spiffe",
		"internal/systemd", "internal/xds", "translator"},
	"systemd":                      {},
	"internal/systemd":             {},
	"internal/systemd/systemdtest": {},
	"internal/admin":               {},
	"internal/capture":             {},
	"internal/dns":                 {},
	"internal/lkg":                 {},
	"internal/seal":                {},
	"internal/launch":              {"internal/admin", "internal/systemd"},
	"internal/envoys":              {"internal/admin", "internal/launch", "internal/systemd"},
	"adapters":                     {"internal/mesh/planpb"},
	"adapters/process":             {"adapters", "internal/admin", "internal/launch", "internal/mesh/planpb"},
	"adapters/systemd":             {"adapters", "internal/admin", "internal/launch", "internal/systemd", "systemd"},

	// Programs and tests of the whole.
	"cmd/wattle":              {anything},
	"examples":                {"configs", "internal/pipeline"},
	"examples/bookinfo/app":   {},
	"examples/registries/dns": {},
	"internal/archtest":       {},
	"test/bench":              {anything},
	"test/e2e":                {anything},
	"test/e2e/datapath":       {anything},
	"test/lab":                {anything},
	"test/load":               {"test/load/echo"},
	"test/peers":              {},
	"test/smalldisk":          {},
	"test/space":              {},
	"test/table":              {},
	"test/load/app":           {"test/load/echo"},
	"test/load/echo":          {},
	"test/load/send":          {"test/load"},
}

// rule forbids the packages in who to import those in what. Both are paths, "a/*" for the folders right below a and
// "a/..." for a and all below it; paths outside the module are as they are imported.
type rule struct {
	why    string
	who    []string
	but    []string // among who, those that may
	what   []string
	unless []string // among what, those that may be imported
}

// never holds whatever the table says.
var never = []rule{
	{
		why: "leaves import none of ours",
		who: []string{"configs", "registry", "systemd", "internal/spiffe"}, what: []string{module + "/..."},
	},
	{
		why: "drivers never import drivers",
		who: []string{"registry/*"}, but: []string{"registry/builtin"},
		what: []string{module + "/registry/*"},
	},
	{
		why: "a driver sees registry alone; static also reads the policy's language",
		who: []string{"registry/*"}, but: []string{"registry/static", "registry/builtin"},
		what: []string{module + "/..."}, unless: []string{module + "/registry"},
	},
	{
		why: "what is built in is chosen by cmd alone",
		who: []string{"..."}, but: []string{"cmd/...", "test/..."},
		what: []string{module + "/registry/builtin", module + "/adapters/builtin"},
	},
	{
		why:  "nothing imports a program",
		who:  []string{"..."},
		what: []string{module + "/cmd/...", module + "/examples/..."},
	},
	{
		why: "the conformance suite is for tests",
		who: []string{"..."}, what: []string{module + "/registry/registrytest"},
	},
	{
		why: "the stages are pure",
		who: []string{"translator", "internal/mesh"},
		what: []string{"google.golang.org/grpc/...", "net/http/...", "os/...", "log/slog", "context", "time/tzdata",
			"github.com/envoyproxy/go-control-plane/pkg/..."},
	},
	{
		why: "adapters know a host's plan, not how Envoy is configured",
		who: []string{"adapters/..."}, what: []string{module + "/translator", module + "/internal/xds", module + "/registry/..."},
	},
	{
		why: "the resource table is internal/xds's alone",
		who: []string{"..."}, but: []string{"internal/xds", "test/..."},
		what: []string{"github.com/envoyproxy/go-control-plane/pkg/cache/...", "github.com/envoyproxy/go-control-plane/pkg/server/..."},
	},
	{
		why: "Envoy's protos are for those who make or serve them",
		who: []string{"..."}, but: []string{"translator", "internal/xds", "internal/agent", "internal/api", "adapters/process", "test/..."},
		what: []string{"github.com/envoyproxy/go-control-plane/envoy/..."},
	},
	{why: "a vendor's SDK stays in its folder", who: []string{"..."}, but: []string{"registry/consul", "test/..."}, what: []string{"github.com/hashicorp/consul/..."}},
	{why: "a vendor's SDK stays in its folder", who: []string{"..."}, but: []string{"registry/nomad", "adapters/nomad", "test/..."}, what: []string{"github.com/hashicorp/nomad/..."}},
	{why: "a vendor's SDK stays in its folder", who: []string{"..."}, but: []string{"registry/etcd", "internal/store", "test/..."}, what: []string{"go.etcd.io/etcd/..."}},
	{why: "a vendor's SDK stays in its folder", who: []string{"..."}, but: []string{"registry/dns", "internal/dns", "examples/registries/dns"}, what: []string{"github.com/miekg/dns/..."}},
	{why: "a vendor's SDK stays in its folder", who: []string{"..."}, but: []string{"adapters/systemd", "internal/systemd"}, what: []string{"github.com/coreos/go-systemd/..."}},
	{why: "netlink is for capture", who: []string{"..."}, but: []string{"internal/capture", "test/..."}, what: []string{"github.com/google/nftables/...", "github.com/vishvananda/..."}},
	{why: "the database stays in its folder", who: []string{"..."}, but: []string{"internal/store"}, what: []string{"go.etcd.io/bbolt/..."}},
	{why: "flags are cmd's", who: []string{"..."}, but: []string{"cmd/..."}, what: []string{"github.com/spf13/..."}},
	{
		why: "HCL is read in configs and by drivers, for their own blocks",
		who: []string{"..."}, but: []string{"configs", "registry/..."},
		what: []string{"github.com/hashicorp/hcl/...", "github.com/zclconf/go-cty/..."},
	},
}

// banned are names that say nothing about what a package is.
var banned = []string{"util", "utils", "common", "helper", "helpers", "types", "model", "models", "base", "misc", "shared"}

// agentMayUse limits what internal/agent knows of the translator: the resources, not how they are made.
const (
	agentPackage = "internal/agent"
	agentMayUse  = "translator/resource.go"
)
