package consul

import (
	"testing"

	"github.com/hashicorp/consul/api"
)

// A host that was made anew under another name is registered beside its dead predecessor, which Consul keeps for days.
func TestADeadDoubleDoesNotStandBeforeALiveInstance(t *testing.T) {
	t.Parallel()
	p := newPeer(t, nil).ready()
	register := func(node, id, status string) {
		t.Helper()
		s := web(1, 8080)
		s.ID = id
		if err := put(p.api, node, s, &api.HealthCheck{CheckID: "alive-" + id, Name: "alive", Status: status}); err != nil {
			t.Fatal(err)
		}
	}
	register("old", "a", api.HealthPassing)
	_, body := modes["plaintext"](t, p)
	m := join(t, body)
	m.await("web:8080 10.0.0.1:8080")
	register("new", "b", api.HealthPassing)
	m.awaitError("W4503: service web: instance a on node old is left out: instance b on node new has the address 10.0.0.1:8080, too, and is newer")
	register("old", "a", api.HealthCritical)
	m.awaitError("is healthy where this one is unhealthy")
	m.await("web:8080 10.0.0.1:8080")
	register("old", "a", api.HealthPassing)
	register("new", "b", api.HealthCritical)
	m.awaitError("instance b on node new is left out")
	m.await("web:8080 10.0.0.1:8080")
	if _, err := p.api.Catalog().Deregister(&api.CatalogDeregistration{Node: "new"}, nil); err != nil {
		t.Fatal(err)
	}
	m.awaitSound()
	m.await("web:8080 10.0.0.1:8080")
}
