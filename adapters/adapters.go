// Package adapters is what a platform must do for a host's agent: a Plan of proxies in, running Envoys out. An
// adapter knows processes or units, not how Envoy is configured.
package adapters

import "context"

// An Adapter makes one platform run what plans say.
type Adapter interface {
	// Apply makes the platform match p, which is always the whole: what it does not name is ended. Equal plans
	// change nothing, so it may be called again at any time, and is after an error. It returns when everything is
	// under way, and is not called concurrently. A proxy that both the platform and p have is not disturbed.
	Apply(ctx context.Context, p Plan) error
}

// Plan is every proxy that a host runs, sorted by name, and what workloads need besides. Immutable.
type Plan struct {
	Proxies []Proxy
	// Workloads is what workloads get; nil: what they have stays. A platform without units ignores it.
	Workloads *Workloads
}

// Workloads is what the workloads of a host get from us besides a proxy. Immutable.
type Workloads struct {
	Units    []Unit // of workloads, which are not ours; sorted by name
	Resolver bool   // the resolver for captured workloads runs
}

// Unit is what a workload's unit gets from us when it starts next.
type Unit struct {
	Name string // "web.service"
	// Resolv is the path of the resolv.conf that it sees instead of the host's, at whose address the host's Resolver is. Empty:
	// it sees the host's.
	Resolv string
	// Proxies are the names of those that serve its workloads: it starts after them, and a unit beside it drains the workloads
	// before it stops. None: neither.
	Proxies []string
	Env     []string // "NAME=VALUE", sorted by name
}

// Proxy is one Envoy.
type Proxy struct {
	ID   string // in the mesh: "h1/host"
	Name string // on the host, fit for a file's name: "host", "gw-public"
	// Bootstrap is what the Envoy starts with, as JSON. One that runs already keeps the bootstrap that it began with.
	Bootstrap []byte
	LowPorts  bool // it listens on a port below 1024
	Resources Resources
	// Version is the release that its Envoy must be; empty: any. Envoy is where that is; empty: where the adapter was told.
	// What is not there, does not run or is of another version is not used.
	Version, Envoy string
}

// Resources bound what one Envoy may use; zero: what the platform says by itself. A platform that cannot bound it ignores them.
type Resources struct {
	MemoryHigh uint64 // bytes
	CPUWeight  uint64 // 1 to 10000
	TasksMax   uint64
}

// Crash is the end of an Envoy that nobody wanted. The platform starts it again by itself.
type Crash struct {
	Name string // of the proxy, on the host
	// Last returns the last lines that it wrote, oldest first, as far as they can be had. It may take a while.
	Last func(context.Context) []string
}

// A Killer is an Adapter that can end an Envoy at once, which hangs; the platform starts it again.
type Killer interface {
	Kill(ctx context.Context, name string) error
}
