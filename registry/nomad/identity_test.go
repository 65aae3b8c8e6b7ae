package nomad

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/wattle-mesh/wattle/test/peers"
)

// life is how long a workload's token is valid. Nomad writes another one after half of that, 10 s at the earliest, and takes
// the old one for leeway longer.
const (
	life   = 15 * time.Second
	leeway = time.Minute
)

// wattleJob is a job as a server of ours would run in: nobody gives it a token but Nomad.
func wattleJob() *api.Job {
	j := peers.NomadJob("default", "wattle", peers.NomadGroup{Name: "g", Service: "wattle", Address: "10.0.9.9", Port: "7500"})
	task := j.TaskGroups[0].Tasks[0]
	task.Identity = &api.WorkloadIdentity{File: true}
	task.Identities = []*api.WorkloadIdentity{{Name: "wattle", Audience: []string{"nomadproject.io"}, File: true, TTL: life}}
	return j
}

// secrets is the folder of the secrets of the only task of a job.
func (p *peer) secrets(job string) string {
	p.t.Helper()
	var dir string
	eventually(p.t, "the allocation of "+job, func() bool {
		allocs, _, err := p.api.Jobs().Allocations(job, true, nil)
		if err != nil || len(allocs) != 1 || allocs[0].ClientStatus != clientRunning {
			return false
		}
		dir = filepath.Join(p.dir, "data", "alloc", allocs[0].ID, "main", "secrets")
		return true
	})
	return dir
}

func read(t testing.TB, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// task is the body of a block that reads Nomad through the API that a task is given, with its identity.
func task(dir, file string) string {
	return fmt.Sprintf("address = \"unix://%s/api.sock\"\ntoken_file = \"%s/%s\"\n", dir, dir, file)
}

// The token of a task's identity, which Nomad writes and replaces, is all that is needed, through the task's own socket.
func TestWorkloadIdentity(t *testing.T) {
	t.Parallel()
	p := newPeer(t, withACLs()).bootstrap().ready()
	p.register(wattleJob())
	dir := p.secrets("wattle")
	first := read(t, filepath.Join(dir, "nomad_wattle.jwt"))
	for _, c := range []struct{ body, remedy string }{
		{fmt.Sprintf("address = \"unix://%s/api.sock\"\n", dir), "set token_file"},
		{task(dir, "nomad_token"), "attach"},
	} {
		join(t, c.body).awaitError(c.remedy)
	}
	m := join(t, task(dir, "nomad_wattle.jwt"))
	m.awaitError("attach an ACL policy with")
	of := &api.JobACL{Namespace: "default", JobID: "wattle", Group: "g", Task: "main"}
	if _, err := p.api.ACLPolicies().Upsert(&api.ACLPolicy{Name: "wattle", Rules: rules, JobACL: of}, nil); err != nil {
		t.Fatal(err)
	}
	p.run("default", "web", peers.NomadGroup{Name: "g", Service: "web", Address: "10.0.0.1", Port: "80"})
	m.await("wattle:7500 10.0.9.9:7500", "web:80 10.0.0.1:80")
	m.awaitSound()
	forever := join(t, task(dir, "nomad_token")) // of the identity that every task has, which does not expire
	forever.await("wattle:7500 10.0.9.9:7500", "web:80 10.0.0.1:80")

	eventually(t, "another token in the file", func() bool { return read(t, filepath.Join(dir, "nomad_wattle.jwt")) != first })
	old := p.client(first)
	within(t, patience+life+leeway, "the first token to be refused", func() bool {
		_, _, err := old.Nodes().List(nil)
		return refused(err)
	})
	p.run("default", "web", peers.NomadGroup{Name: "g", Service: "web", Address: "10.0.0.2", Port: "80"})
	m.await("wattle:7500 10.0.9.9:7500", "web:80 10.0.0.2:80")
	m.awaitSound()

	// What an allocation that has ended held is no token any more, wherever it was copied to.
	last := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(last, []byte(read(t, filepath.Join(dir, "nomad_token"))), 0o600); err != nil {
		t.Fatal(err)
	}
	late := join(t, to(p.addr)+fmt.Sprintf("token_file = %q\n", last))
	late.await("wattle:7500 10.0.9.9:7500", "web:80 10.0.0.2:80")
	p.stop("default", "wattle")
	late.awaitError("attach an ACL policy with")
}

// refused reports whether Nomad does not take a token.
func refused(err error) bool {
	code := status(err)
	return code == http.StatusForbidden || code == http.StatusUnauthorized
}
