package nomad

import (
	"context"
	"maps"

	"github.com/wattle-mesh/wattle/registry"
)

// deployment is what counts of a deployment. Immutable.
type deployment struct {
	Namespace   string
	JobID       string
	JobVersion  uint64
	Status      string
	TaskGroups  map[string]struct{} // those that it rolls out: not one with max_parallel = 0, or of a system job without an update block
	CreateIndex uint64
}

// deployed names what a deployment rolls out. The list of allocations has no ID of a deployment, and these tell it as well:
// a job has one deployment in progress at most.
type deployed struct {
	namespace, job string
	version        uint64
}

// allDeployments asks for those in progress. All namespaces that the token may see are read with one query, whichever are
// configured, for the sake of the agent's limit of connections.
var allDeployments = question{path: "/v1/deployments", namespace: everyNamespace,
	params: map[string]string{"filter": `Status != "successful" and Status != "failed" and Status != "cancelled"`}}

// inProgress reports whether a deployment may still decide: Deployment.Active of Nomad.
func (d *deployment) inProgress() bool {
	switch d.Status {
	case "running", "paused", "pending", "initializing", "blocked", "unblocking":
		return true
	}
	return false
}

func (r *run) readDeployments(ctx context.Context) (uint64, error) {
	var all []*deployment
	index, err := r.client.once(ctx, allDeployments, &all)
	if err == nil {
		r.table.putDeployments(all)
	}
	return index, err
}

func (r *run) followDeployments(ctx context.Context, index uint64) error {
	return follow(ctx, r, allDeployments, index, func(all []*deployment, _ uint64) error {
		r.table.putDeployments(all)
		return nil
	})
}

// putDeployments takes in all deployments that are in progress; others are passed over.
func (t *table) putDeployments(all []*deployment) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := map[deployed]*deployment{}
	for _, d := range all {
		if d == nil || !d.inProgress() {
			continue
		}
		of := deployed{d.Namespace, d.JobID, d.JobVersion}
		if other := now[of]; other == nil || other.CreateIndex < d.CreateIndex {
			now[of] = d
		}
	}
	was := t.deployments
	t.deployments = now
	equal := func(a, b *deployment) bool {
		return a == b || a != nil && b != nil && a.CreateIndex == b.CreateIndex && maps.Equal(a.TaskGroups, b.TaskGroups)
	}
	if maps.EqualFunc(was, now, equal) { // most changes are of what it counts
		return
	}
	dirty := map[registry.Name]bool{}
	for id, a := range t.allocs {
		if of := a.deployed(); !equal(was[of], now[of]) {
			maps.Copy(dirty, t.onAlloc[id])
		}
	}
	for n := range dirty {
		t.build(n)
	}
	t.nudge()
}

func (a *alloc) deployed() deployed { return deployed{a.Namespace, a.JobID, a.JobVersion} }

// undecided reports whether an allocation waits for the word of a deployment that is in progress. One that is older than
// the deployment was updated in place: Nomad forgets what an earlier deployment said, but its tasks have run all the time.
// What a deployment places is as old as it or younger, since Nomad writes both at one index. t.mu is held.
func (t *table) undecided(a *alloc) bool {
	if s := a.DeploymentStatus; s != nil && s.Healthy != nil {
		return false
	}
	d := t.deployments[a.deployed()]
	if d == nil || a.CreateIndex < d.CreateIndex {
		return false
	}
	_, rolled := d.TaskGroups[a.TaskGroup]
	return rolled
}
