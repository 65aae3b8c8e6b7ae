// Package builtin is the list of registry drivers that are compiled in. A new driver is one folder and one line here.
package builtin

import (
	"github.com/wattle-mesh/wattle/registry"
	"github.com/wattle-mesh/wattle/registry/consul"
	"github.com/wattle-mesh/wattle/registry/dns"
	"github.com/wattle-mesh/wattle/registry/etcd"
	"github.com/wattle-mesh/wattle/registry/nomad"
	"github.com/wattle-mesh/wattle/registry/static"
)

// Drivers returns the drivers, sorted by type.
func Drivers() []registry.Driver {
	return []registry.Driver{
		consul.Driver(),
		dns.Driver(),
		etcd.Driver(),
		nomad.Driver(),
		static.Driver(),
	}
}
