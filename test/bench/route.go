package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/mesh"
	"github.com/wattle-mesh/wattle/registry"
	"github.com/wattle-mesh/wattle/registry/static"
	"github.com/wattle-mesh/wattle/translator"
)

// routeRole takes a policy of 10,000 routes through the stages, and then changes of one.
type routeRole struct {
	dir      string
	loader   *configs.Loader
	own      static.Memo
	catalog  *registry.Catalog // what the stages last made
	view     *mesh.View
	out      *translator.Output
	policies [2]*configs.Policy // that differ in one route
}

// routeTimes are how long one change took in its stages.
type routeTimes struct {
	Load      time.Duration `json:"load"`      // find and read the files that changed, decode them
	Translate time.Duration `json:"translate"` // from the policy to encoded bytes
	Changed   int           `json:"changed"`   // resources
}

func newRoute(dir string) *routeRole {
	return &routeRole{dir: filepath.Join(dir, "policy"), loader: configs.NewLoader(configs.Options{})}
}

func (r *routeRole) do(_ context.Context, name string, arg json.RawMessage) (any, error) {
	switch name {
	case "start":
		if err := r.write(); err != nil {
			return nil, err
		}
		return r.pass(0)
	case "edit":
		if err := writeFile(r.dir, "routes-0500.hcl", routesOf(500, 50)); err != nil {
			return nil, err
		}
		return r.pass(1)
	case "swap":
		var n int
		if err := json.Unmarshal(arg, &n); err != nil {
			return nil, err
		}
		return r.translate(r.policies[n%2])
	}
	return nil, fmt.Errorf("no order %q", name)
}

// write writes the policy: a caller of all services, the services, and their routes, a file each.
func (r *routeRole) write() error {
	if err := writeFile(r.dir, "host.hcl", callerOf()); err != nil {
		return err
	}
	for i := range services {
		if err := writeFile(r.dir, fmt.Sprintf("service-%04d.hcl", i), fileOf(i)); err != nil {
			return err
		}
		if err := writeFile(r.dir, fmt.Sprintf("routes-%04d.hcl", i), routesOf(i, 90)); err != nil {
			return err
		}
	}
	return nil
}

// pass takes the folder through the stages, as the server's loop does, and keeps its policy as the i-th.
func (r *routeRole) pass(i int) (*routeTimes, error) {
	began := time.Now()
	policy, diags := r.loader.Load(r.dir)
	took := time.Since(began)
	if diags.HasErrors() {
		return nil, errors.New(diags.Error())
	}
	r.policies[i] = policy
	t, err := r.translate(policy)
	if err != nil {
		return nil, err
	}
	t.Load = took
	return t, nil
}

// translate takes a policy through the stages after the loading.
func (r *routeRole) translate(policy *configs.Policy) (*routeTimes, error) {
	began := time.Now()
	catalog := registry.Merge(r.catalog, []registry.Set{{Name: "policy", Services: r.own.Services(policy)}}, nil)
	view, diags := mesh.Resolve(r.view, catalog, policy)
	if diags.HasErrors() {
		return nil, errors.New(diags.Error())
	}
	out, err := translator.Translate(r.out, view)
	if err != nil {
		return nil, err
	}
	took := time.Since(began)
	r.catalog, r.view, r.out = catalog, view, out
	return &routeTimes{Translate: took, Changed: len(out.Changes.Resources)}, nil
}

// route measures one changed route of 10,000 in 1000 route configurations.
func (d *driver) route(ctx context.Context) error {
	c, err := spawn(ctx, "route", d.dir)
	if err != nil {
		return err
	}
	first, err := ask[*routeTimes](c, "start", nil)
	if err != nil {
		return err
	}
	if first.Changed < services {
		return fmt.Errorf("only %d resources: not the mesh to measure", first.Changed)
	}
	edited, err := ask[*routeTimes](c, "edit", nil)
	if err != nil {
		return err
	}
	var translate []time.Duration
	for i := range 20 * d.effort.repeats {
		t, err := ask[*routeTimes](c, "swap", i)
		if err != nil {
			return err
		}
		if t.Changed != 1 {
			return fmt.Errorf("one route changed %d resources", t.Changed)
		}
		translate = append(translate, t.Translate)
	}
	d.out.Require("one changed route of 10,000: from parsed policy to encoded bytes", microseconds(median(translate)), "us", 200)
	d.out.Note("before that: find, read and decode the file among 2001", microseconds(edited.Load), "us")
	d.out.Note("right after that, with cold caches", microseconds(edited.Translate), "us")
	d.out.Note("all 10,000 for the first time: read and decode 2001 files", milliseconds(first.Load), "ms")
	d.out.Note("all 10,000 for the first time: from parsed policy to encoded bytes", milliseconds(first.Translate), "ms")
	return c.stop()
}
