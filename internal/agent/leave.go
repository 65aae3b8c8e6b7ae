package agent

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api"
	"github.com/wattle-mesh/wattle/internal/api/apipb"
	"github.com/wattle-mesh/wattle/internal/launch"
	"github.com/wattle-mesh/wattle/internal/spiffe"
)

// ErrLeft is what Run returns when the host has left the mesh and the agent was asked to end then.
var ErrLeft = errors.New("this host has left the mesh")

// tellLimit is how long a server may take to answer that a host leaves which leaves in any case.
const tellLimit = 3 * time.Second

// leaver takes the host out of the mesh.
type leaver struct {
	tell  value[func(context.Context) (*apipb.LeaveResponse, error)] // nil: the host has not joined
	ended chan struct{}                                              // has an element when the agent shall end
}

// leave drains the host and tells the server that it leaves. What runs here runs on: it is for who asked to end it. If no
// server can be told, the host stays.
func (d *desk) leave(who client, r *http.Request) (any, error) {
	if !d.trusted(who.uid) {
		return nil, deny(http.StatusForbidden, api.CodeUser, "do it as root", "uid %d may not take this host out of the mesh", who.uid)
	}
	req, err := api.ParseHostLeave(r)
	if err != nil {
		return nil, err
	}
	tell := d.host.a.leaver.tell.Now()
	if tell == nil {
		return nil, deny(http.StatusConflict, "", "there is nothing to leave", "this host has not joined a mesh")
	}
	out := api.HostLeft{Node: d.host.a.node.held.Now().id.Name}
	d.drains.depart(true)
	out.Drains = d.drains.await(r.Context(), func() []workload {
		var all []workload
		for _, w := range d.drains.plan.Now().GetWorkloads() {
			all = append(all, workloadOf(w))
		}
		return all
	}, time.Duration(req.Wait))
	limit := callLimit
	if req.Force {
		limit = tellLimit
	}
	ctx, cancel := context.WithTimeout(r.Context(), limit)
	defer cancel()
	switch said, err := tell(ctx); {
	case err == nil:
		out.Told, out.Registrations = true, said.GetRegistrations()
	case status.Code(err) == codes.PermissionDenied: // it left before, or was forgotten
		out.Told, out.Error = true, status.Convert(err).Message()
	case !req.Force:
		d.drains.depart(false)
		return nil, deny(http.StatusServiceUnavailable, "", "bring a server back; or leave with -force, and have an operator say on a server: wattle host remove "+out.Node,
			"no server could be told that %s leaves, and it stays: %v", out.Node, err)
	default:
		out.Error = err.Error()
	}
	d.log.Info("the host leaves the mesh", "node", out.Node, "server_told", out.Told)
	if req.End {
		select {
		case d.host.a.leaver.ended <- struct{}{}:
		default:
		}
	}
	return out, nil
}

// departure is what tells the server.
func departure(client apipb.NodeClient) func(context.Context) (*apipb.LeaveResponse, error) {
	return func(ctx context.Context) (*apipb.LeaveResponse, error) {
		return client.Leave(ctx, &apipb.LeaveRequest{}, grpc.WaitForReady(true))
	}
}

// depart has all workloads of the plan drain while the host leaves.
func (d *drains) depart(on bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.departs = on
	d.poke()
}

// Member says which node of which trust domain a host is, from what is in the state folder; empty: it has not joined.
func Member(cfg *configs.Agent) (node, trustDomain string, err error) {
	path := filepath.Join(cfg.StateDir, nodeCertFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", "", nil
	}
	var chain [][]byte
	if err == nil {
		chain, _, err = parsePEM(text)
	}
	if err != nil {
		return "", "", fmt.Errorf("%s: %w", path, err)
	}
	id, err := nodeOf(chain)
	if err != nil {
		return "", "", fmt.Errorf("%s: %w", path, err)
	}
	return id.Name, id.TrustDomain, nil
}

func nodeOf(chain [][]byte) (spiffe.ID, error) {
	if len(chain) == 0 {
		return spiffe.ID{}, errors.New("no certificate")
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return spiffe.ID{}, err
	}
	return spiffe.FromCertificate(leaf)
}

// What agents write into the state folder.
var (
	identityFiles = []string{nodeCertFile, rootsFile, nodeKeyFile}
	stateFiles    = []string{
		keptFolder, provenFolder, barredFolder, certsFolder, resolvFolder, servicesFile, drainsFile,
		registeredFile, registeredFile + olderSuffix, registeredFile + badSuffix, endedFile,
	}
)

// Running reports whether an agent runs on the host's folders.
func Running(cfg *configs.Agent) (bool, error) {
	held, err := lock(cfg.RunDir)
	switch {
	case errors.Is(err, errTaken):
		return true, nil
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	}
	return false, held.Close()
}

// Forget removes what agents have written on this host, the identity last: until then it can be done again. No agent may run,
// and no Envoy. What others put into the folders stays.
func Forget(cfg *configs.Agent) error {
	held, err := lock(cfg.RunDir)
	if errors.Is(err, fs.ErrNotExist) { // it never ran since the host started
		held, err = nil, nil
	}
	if err != nil {
		return err
	}
	var errs []error
	remove := func(dir string, names ...string) {
		for _, name := range names {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, name)))
		}
	}
	remove(cfg.StateDir, stateFiles...)
	for _, name := range append(slices.Concat(stateFiles, identityFiles), "try") { // what a crash left half written
		half, err := filepath.Glob(filepath.Join(cfg.StateDir, "."+name+"-*"))
		errs = append(errs, err)
		for _, path := range half {
			remove(cfg.StateDir, filepath.Base(path))
		}
	}
	proxies, err := filepath.Glob(filepath.Join(cfg.RunDir, "*", launch.BootstrapFile))
	errs = append(errs, err)
	for _, path := range proxies {
		remove(filepath.Dir(filepath.Dir(path)), filepath.Base(filepath.Dir(path)))
	}
	remove(cfg.RunDir, hostProxy, resolverFolder, agentSocket)
	if err := errors.Join(errs...); err != nil {
		return err
	}
	remove(cfg.StateDir, identityFiles...)
	if held != nil {
		remove(cfg.RunDir, lockFile)
		errs = append(errs, held.Close())
	}
	return errors.Join(errs...)
}
