// Package static is the registry of files: the host and service blocks of a policy, or of a watched folder of
// their own, in; registry services out.
package static

import (
	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/registry"
)

// Services returns the services that the policy's host and service blocks declare, sorted by name.
func Services(p *configs.Policy) []*registry.Service {
	var m Memo
	return m.Services(p)
}

// Memo turns one policy after the other into services. A service whose blocks kept their pointers keeps its
// own. The zero value is ready. Not for concurrent use.
type Memo struct{}

// Services returns the services that the policy's host and service blocks declare, sorted by name. The slice is
// the previous one if nothing changed.
func (m *Memo) Services(p *configs.Policy) []*registry.Service { return nil }
