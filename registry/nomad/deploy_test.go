package nomad

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/wattle-mesh/wattle/registry"
	"github.com/wattle-mesh/wattle/test/peers"
)

// rolls is a deployment of job web's group g.
func rolls(version uint64, status string, index uint64) deployment {
	return deployment{Namespace: "default", JobID: "web", JobVersion: version, Status: status, TaskGroups: map[string]struct{}{"g": {}}, CreateIndex: index}
}

// ofWeb is a running allocation of job web's group g, of which no deployment has decided.
func ofWeb(n int, version, index uint64) alloc {
	a := running(n)
	a.JobID, a.TaskGroup, a.JobVersion, a.CreateIndex = "web", "g", version, index
	return a
}

func decided(a alloc, healthy bool) alloc {
	if err := json.Unmarshal(map[bool][]byte{true: []byte(`{"Healthy": true}`), false: []byte(`{"Healthy": false}`)}[healthy], &a.DeploymentStatus); err != nil {
		panic(err)
	}
	return a
}

func TestWhichAllocationsWaitForTheirDeployment(t *testing.T) {
	other := func(change func(*alloc)) alloc {
		a := ofWeb(1, 1, 20)
		change(&a)
		return a
	}
	canary := ofWeb(1, 1, 20)
	if err := json.Unmarshal([]byte(`{"Canary": true}`), &canary.DeploymentStatus); err != nil {
		t.Fatal(err)
	}
	running := []deployment{rolls(1, "running", 20)}
	for name, c := range map[string]struct {
		a    alloc
		ds   []deployment
		want bool
	}{
		"placed with it":                     {ofWeb(1, 1, 20), running, true},
		"placed later, as a replacement":     {ofWeb(1, 1, 30), running, true},
		"a canary":                           {canary, running, true},
		"it is paused":                       {ofWeb(1, 1, 20), []deployment{rolls(1, "paused", 20)}, true},
		"found healthy":                      {decided(ofWeb(1, 1, 20), true), running, false},
		"found unhealthy":                    {decided(ofWeb(1, 1, 20), false), running, false},
		"updated in place":                   {ofWeb(1, 1, 10), running, false},
		"of the version before":              {ofWeb(1, 0, 10), running, false},
		"of the version before, replaced":    {ofWeb(1, 0, 30), running, false},
		"of another job":                     {other(func(a *alloc) { a.JobID = "db" }), running, false},
		"of another namespace":               {other(func(a *alloc) { a.Namespace = "shop" }), running, false},
		"of a group that is not rolled out":  {other(func(a *alloc) { a.TaskGroup = "h" }), running, false},
		"no deployment":                      {ofWeb(1, 1, 20), nil, false},
		"it was successful":                  {ofWeb(1, 1, 20), []deployment{rolls(1, "successful", 20)}, false},
		"it has failed":                      {ofWeb(1, 1, 20), []deployment{rolls(1, "failed", 20)}, false},
		"it was cancelled":                   {ofWeb(1, 1, 20), []deployment{rolls(1, "cancelled", 20)}, false},
		"a second one of the same version":   {ofWeb(1, 1, 30), []deployment{rolls(1, "running", 30), rolls(1, "failed", 20)}, true},
		"of the first of two of one version": {ofWeb(1, 1, 20), []deployment{rolls(1, "running", 30), rolls(1, "failed", 20)}, false},
	} {
		tb := newTable(&config{})
		var ds []*deployment
		for _, d := range c.ds {
			ds = append(ds, &d)
		}
		tb.putDeployments(ds)
		if got := tb.undecided(&c.a); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// While a job is rolled out the instances that its deployment has not decided on get no requests; those before do.
func TestAnInstanceOfWhichItsDeploymentHasNotDecidedIsUnhealthy(t *testing.T) {
	t.Parallel()
	f, url := newFake(t)
	f.services["web"] = []registration{instance(1), instance(2)}
	f.allocs, f.deployments = []alloc{decided(ofWeb(1, 0, 2), true), ofWeb(2, 1, 5)}, []deployment{rolls(1, "running", 5)}
	m := join(t, "address = \""+url+"\"\n")
	m.await("web:80 10.0.0.1:80 10.0.0.2:80(unhealthy)")
	if reason := m.Sets()[0].Services[0].Endpoints[1].Reason; reason != "its deployment has not decided yet" {
		t.Error(reason)
	}
	healthy := decided(ofWeb(2, 1, 5), true)
	healthy.ModifyIndex = 11
	f.set(func() { f.index++; f.allocs[1] = healthy })
	m.await("web:80 10.0.0.1:80 10.0.0.2:80")

	// A deployment that begins, and one that ends without a word, count although no allocation has changed.
	third := ofWeb(3, 2, 12)
	f.set(func() {
		f.index++
		f.services["web"], f.allocs = append(f.services["web"], instance(3)), append(f.allocs, third)
	})
	m.await("web:80 10.0.0.1:80 10.0.0.2:80 10.0.0.3:80")
	f.set(func() { f.index++; f.deployments = []deployment{rolls(2, "running", 12)} })
	m.await("web:80 10.0.0.1:80 10.0.0.2:80 10.0.0.3:80(unhealthy)")
	f.set(func() { f.index++; f.deployments = []deployment{rolls(2, "failed", 12)} })
	m.await("web:80 10.0.0.1:80 10.0.0.2:80 10.0.0.3:80")
}

// Where nothing else is healthy, what its deployment has not decided on is called: it runs, and may be ready.
func TestWhatIsUndecidedIsCalledIfNothingElseIsHealthy(t *testing.T) {
	t.Parallel()
	f, url := newFake(t)
	f.services["web"] = []registration{instance(1), instance(2), instance(3)}
	f.allocs, f.deployments = []alloc{ofWeb(1, 1, 5), decided(ofWeb(2, 1, 5), false), ofWeb(3, 1, 5)}, []deployment{rolls(1, "running", 5)}
	f.services["web"][2].Address = "no address" // counts for nothing
	m := join(t, "address = \""+url+"\"\n")
	m.await("web:80 10.0.0.1:80 10.0.0.2:80(unhealthy)")
	if reason := m.Sets()[0].Services[0].Endpoints[0].Reason; reason != "nothing else is healthy; its deployment has not decided yet" {
		t.Error(reason)
	}
	second := decided(ofWeb(2, 1, 5), true)
	second.ModifyIndex = 11
	f.set(func() { f.index++; f.allocs[1] = second })
	m.await("web:80 10.0.0.1:80(unhealthy) 10.0.0.2:80")
}

// What cannot say which deployments there are keeps the set, as for any other of the lists.
func TestDeploymentsThatCannotBeReadKeepTheSet(t *testing.T) {
	t.Parallel()
	f, url := newFake(t)
	f.services["web"], f.allocs = []registration{instance(1), instance(2)}, []alloc{ofWeb(1, 1, 5), ofWeb(2, 0, 2)}
	f.deployments = []deployment{rolls(1, "running", 5)}
	m := join(t, "address = \""+url+"\"\n")
	m.await("web:80 10.0.0.1:80(unhealthy) 10.0.0.2:80")
	f.set(func() {
		f.index++
		f.deployments = nil
		f.answer = func(w http.ResponseWriter, path string) bool {
			if path != allDeployments.path {
				return false
			}
			http.Error(w, "no", http.StatusForbidden)
			return true
		}
	})
	m.awaitError("403")
	m.await("web:80 10.0.0.1:80(unhealthy) 10.0.0.2:80")
	f.set(func() { f.index++; f.answer = nil })
	m.await("web:80 10.0.0.1:80 10.0.0.2:80")
	m.awaitSound()
}

// A canary of a job whose health an operator decides gets requests once that is done; what is updated in place gets them all
// the time, though Nomad takes back what it had said of it.
func TestDeployments(t *testing.T) {
	t.Parallel()
	p := newPeer(t, nil).ready()
	m := join(t, to(p.addr))
	job := func(address, command string, tags ...string) {
		j := peers.NomadJob("default", "web", peers.NomadGroup{Name: "g", Service: "web", Address: address, Port: "80", Tags: tags, Canary: true, Command: []string{"/bin/sleep", command}})
		manual, deadline, progress := "manual", 10*time.Minute, 20*time.Minute
		u := j.TaskGroups[0].Update
		u.HealthCheck, u.HealthyDeadline, u.ProgressDeadline = &manual, &deadline, &progress
		p.register(j)
	}
	// decide says of all instances of the latest deployment, which is of a version, that they are healthy.
	decide := func(version uint64) {
		t.Helper()
		d, _, err := p.api.Jobs().LatestDeployment("web", nil)
		if err != nil || d == nil || d.JobVersion != version || d.Status != api.DeploymentStatusRunning {
			t.Fatal(d, err)
		}
		allocs, _, err := p.api.Deployments().Allocations(d.ID, nil)
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, a := range allocs {
			ids = append(ids, a.ID)
		}
		if _, _, err := p.api.Deployments().SetAllocHealth(d.ID, ids, nil, nil); err != nil {
			t.Fatal(err)
		}
		if slices.ContainsFunc(allocs, func(a *api.AllocationListStub) bool { return a.DeploymentStatus != nil && a.DeploymentStatus.Canary }) {
			m.await("web:80 10.0.0.1:80 10.0.0.2:80")
			if _, _, err := p.api.Deployments().PromoteAll(d.ID, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	job("10.0.0.1", "1000")
	eventually(t, "the only instance", func() bool {
		return m.text() == "web:80 10.0.0.1:80" && strings.Contains(m.endpoint("web").Reason, notDecided)
	})
	decide(0)
	eventually(t, "its word", func() bool { return m.endpoint("web").Reason == "" })
	job("10.0.0.2", "1001")
	m.await("web:80 10.0.0.1:80 10.0.0.2:80(unhealthy)")
	decide(1)
	m.await("web:80 10.0.0.2:80")

	alloc := m.endpoint("web").Meta.Get(labelAlloc)
	job("10.0.0.2", "1001", "blue")
	eventually(t, "what was updated in place", func() bool {
		e := m.endpoint("web")
		if e.Health != registry.Healthy {
			t.Fatalf("%s: %s", e.Health, e.Reason)
		}
		return e.Meta.Get(labelVersion) == "2" && e.Meta.Get(labelTag+"blue") == "true"
	})
	if e := m.endpoint("web"); e.Meta.Get(labelAlloc) != alloc || e.Meta.Get(labelDeployment) != "" {
		t.Errorf("it is another one, or was decided on: %v", e.Meta.Map())
	}
	decide(2)
	eventually(t, "its word", func() bool { return m.endpoint("web").Meta.Get(labelDeployment) == "healthy" })
	if text := m.text(); strings.Contains(text, "unhealthy") {
		t.Error(text)
	}
}
