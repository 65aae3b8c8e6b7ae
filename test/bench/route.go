package main

import (
	"context"
	"encoding/json"
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
	dir    string
	loader *configs.Loader
	own    static.Memo
	last   routeOutput
	weight int
}

// routeOutput is what the stages last made.
type routeOutput struct {
	catalog *registry.Catalog
	view    *mesh.View
	out     *translator.Output
}

// routeTimes are how long one change took in its stages.
type routeTimes struct {
	Load      time.Duration `json:"load"`      // find and read the file that changed, decode it
	Translate time.Duration `json:"translate"` // from the policy to encoded bytes
	Changed   int           `json:"changed"`   // resources
}

func newRoute(dir string) *routeRole {
	return &routeRole{dir: filepath.Join(dir, "policy"), loader: configs.NewLoader(configs.Options{}), weight: 90}
}

func (r *routeRole) do(_ context.Context, name string, _ json.RawMessage) (any, error) {
	switch name {
	case "start":
		if err := r.write(); err != nil {
			return nil, err
		}
		return r.pass()
	case "change":
		r.weight = 50 + (r.weight+1)%50
		if err := writeFile(r.dir, "routes-0500.hcl", routesOf(500, r.weight)); err != nil {
			return nil, err
		}
		return r.pass()
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
		if err := writeFile(r.dir, fmt.Sprintf("routes-%04d.hcl", i), routesOf(i, r.weight)); err != nil {
			return err
		}
	}
	return nil
}

// pass takes the folder through the stages, as the server's loop does.
func (r *routeRole) pass() (*routeTimes, error) {
	began := time.Now()
	policy, diags := r.loader.Load(r.dir)
	if diags.HasErrors() {
		return nil, fmt.Errorf("%s", diags.Error())
	}
	loaded := time.Now()
	catalog := registry.Merge(r.last.catalog, []registry.Set{{Name: "policy", Services: r.own.Services(policy)}}, nil)
	view, diags := mesh.Resolve(r.last.view, catalog, policy)
	if diags.HasErrors() {
		return nil, fmt.Errorf("%s", diags.Error())
	}
	out, err := translator.Translate(r.last.out, view)
	if err != nil {
		return nil, err
	}
	done := time.Now()
	r.last = routeOutput{catalog, view, out}
	return &routeTimes{loaded.Sub(began), done.Sub(loaded), len(out.Changes.Resources)}, nil
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
	var load, translate []time.Duration
	for range 10 * d.effort.repeats {
		t, err := ask[*routeTimes](c, "change", nil)
		if err != nil {
			return err
		}
		if t.Changed != 1 {
			return fmt.Errorf("one route changed %d resources", t.Changed)
		}
		load, translate = append(load, t.Load), append(translate, t.Translate)
	}
	d.out.require("one changed route of 10,000: from parsed policy to encoded bytes", microseconds(median(translate)), "us", 200)
	d.out.note("the same: find, read and decode the file before that", microseconds(median(load)), "us")
	d.out.note("all 10,000 for the first time: read and decode 2001 files", milliseconds(first.Load), "ms")
	d.out.note("all 10,000 for the first time: from parsed policy to encoded bytes", milliseconds(first.Translate), "ms")
	return c.stop()
}
