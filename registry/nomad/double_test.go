package nomad

import (
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/wattle-mesh/wattle/registry"
	"github.com/wattle-mesh/wattle/test/peers"
)

// Two jobs say that they are at one place, be it by mistake: the newer one counts, and the other one when it is gone.
func TestOfTwoJobsAtOnePlaceOneCounts(t *testing.T) {
	t.Parallel()
	p := newPeer(t, nil).ready()
	m := join(t, to(p.addr))
	group := peers.NomadGroup{Name: "g", Service: "web", Address: "10.0.0.1", Port: "8080"}
	p.run("default", "old", group)
	m.await("web:8080 10.0.0.1:8080")
	if job := m.endpoint("web").Meta.Get(labelJob); job != "old" {
		t.Fatalf("it is of %s", job)
	}
	p.run("default", "new", group)
	m.awaitError("W4503")
	m.awaitError("and is newer")
	m.awaitJob("new")
	m.await("web:8080 10.0.0.1:8080")
	p.stop("default", "new")
	m.awaitJob("old")
	m.awaitSound()
	m.await("web:8080 10.0.0.1:8080")
}

// A node that is cut off keeps its registrations, since its jobs may still run: what takes an instance's place at the same
// address, as one that moves with it, is called all the same.
func TestADeadDoubleDoesNotStandBeforeALiveInstance(t *testing.T) {
	t.Parallel()
	p := newPeers(t).ready()
	m := join(t, to(p.addr))
	j := peers.NomadJob("default", "web", peers.NomadGroup{Name: "g", Service: "web", Address: "10.0.0.1", Port: "8080"})
	after, replace := 10*time.Minute, true
	j.TaskGroups[0].Disconnect = &api.DisconnectStrategy{LostAfter: &after, Replace: &replace}
	soon, constant, none := 5*time.Second, "constant", 0
	j.TaskGroups[0].ReschedulePolicy = &api.ReschedulePolicy{Unlimited: &replace, Attempts: &none, Delay: &soon, DelayFunction: &constant}
	p.register(j)
	m.await("web:8080 10.0.0.1:8080")
	first := m.endpoint("web").Meta.Get(labelAlloc)
	p.newWorker("w2")
	p.readyNodes(2)
	p.worker.kill()
	m.awaitError("W4503: service web: the instance of allocation " + first + " is left out")
	m.awaitError("and is healthy where this one is unhealthy")
	m.await("web:8080 10.0.0.1:8080")
	if got := m.endpoint("web"); got.Meta.Get(labelNode) != "w2" {
		t.Errorf("%v", got.Meta.Map())
	}
	if all, _, err := p.api.Services().Get("web", nil); err != nil || len(all) != 2 {
		t.Errorf("Nomad lists %d registrations: %v", len(all), err)
	}
	p.worker.start()
	p.readyNodes(2)
	m.awaitSound() // Nomad has ended one of them
	m.await("web:8080 10.0.0.1:8080")
}

// awaitJob waits until the only endpoint of web is of a job.
func (m *mesh) awaitJob(id string) {
	m.t.Helper()
	eventually(m.t, "an endpoint of job "+id, func() bool {
		s := m.Sets()[0].Services
		return len(s) == 1 && len(s[0].Endpoints) == 1 && s[0].Endpoints[0].Meta.Get(labelJob) == id && s[0].Endpoints[0].Health == registry.Healthy
	})
}
