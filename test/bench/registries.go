package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	consulapi "github.com/hashicorp/consul/api"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api"
	"github.com/wattle-mesh/wattle/test/peers"
)

// registries measures how long a change in a real registry takes to the real Envoy that uses it.
func (d *driver) registries(ctx context.Context) (err error) {
	f := &field{site: site{dir: filepath.Join(d.dir, "registries"), wattle: d.wattle}}
	defer func() { err = errors.Join(err, f.close()) }()
	if err := f.start(ctx); err != nil {
		return err
	}
	change := 0
	for _, kind := range kinds {
		var took []time.Duration
		for range 2 + 3*d.effort.repeats {
			if err := rest(ctx, quiet); err != nil {
				return err
			}
			change++
			t, err := f.change(ctx, kind, marker(change).String())
			if err != nil {
				return fmt.Errorf("%s: %w", kind, err)
			}
			took = append(took, t)
		}
		what := "endpoint change in a registry " + kind
		if kind == "nomad" { // it says of the allocation first that it changes, and what, within the second that a service has for a change
			what += ", an update in place,"
		}
		d.out.Note(what+" to the real Envoy, p50", milliseconds(median(took[2:])), "ms")
	}
	if err := f.registrations(ctx, d); err != nil {
		return err
	}
	return f.flap(ctx, d)
}

// registrations measures how long a workload that is registered at its agent takes to be called by the real Envoy: its
// certificate is made meanwhile, and its chain put into the Envoy of its host.
func (f *field) registrations(ctx context.Context, d *driver) error {
	agent := api.NewClient(api.ClientOptions{Address: "unix:" + filepath.Join(f.host.run, "agent.sock"), Agent: true})
	defer agent.Close()
	ref := api.ServiceRef{Namespace: "default", Name: registered, Instance: "b"}
	var took []time.Duration
	for range 2 + 3*d.effort.repeats {
		began := time.Now()
		if err := register(ctx, agent, ref.Instance, 9002); err != nil {
			return fmt.Errorf("register: %w", err)
		}
		if err := await(ctx, "the workload in Envoy", func() error { return f.host.shows(ctx, 1, benchHost+":7444::health_flags::healthy") }); err != nil {
			return err
		}
		took = append(took, time.Since(began))
		if err := rest(ctx, quiet); err != nil {
			return err
		}
		if _, err := agent.Deregister(ctx, ref); err != nil {
			return fmt.Errorf("deregister: %w", err)
		}
		gone := func() error {
			if f.host.shows(ctx, 1, benchHost+":7444::health_flags::") == nil {
				return errors.New("it is still there")
			}
			return ctx.Err()
		}
		if err := errors.Join(await(ctx, "Envoy without the workload", gone), rest(ctx, quiet)); err != nil {
			return err
		}
	}
	d.out.Note("wattle service register to the real Envoy that calls it, p50", milliseconds(median(took[2:])), "ms")
	return nil
}

// registered is the service of the host's own workloads.
const registered = "of-register"

// register registers an instance of it.
func register(ctx context.Context, agent *api.Client, instance string, port uint16) error {
	local := netip.AddrPortFrom(netip.MustParseAddr(benchHost), port)
	_, err := agent.Register(ctx, api.ServiceRequest{Service: &configs.Service{
		Block: configs.Block{Namespace: "default", Name: registered}, Instance: instance, Weight: 1,
		Ports: []configs.ServicePort{{Number: 80, Protocol: "http", Local: local}},
	}})
	return err
}

// write gives a registry's service its one endpoint.
func (f *field) write(ctx context.Context, kind, address string) error {
	switch kind {
	case "consul": // another instance with its check, and then the old one goes
		_, err := f.consul.Catalog().Register(&consulapi.CatalogRegistration{
			Node: "elsewhere", Address: "10.9.9.9", Service: &consulapi.AgentService{ID: address, Service: "of-consul", Address: address, Port: 80},
			Check: &consulapi.AgentCheck{CheckID: address, Name: "alive", ServiceID: address, Status: consulapi.HealthPassing},
		}, nil)
		if err == nil && f.instance != "" {
			_, err = f.consul.Catalog().Deregister(&consulapi.CatalogDeregistration{Node: "elsewhere", ServiceID: f.instance}, nil)
		}
		if err == nil {
			f.instance = address
		}
		return err
	case "nomad": // the job is updated in place: its task runs on
		j := peers.NomadJob("default", "of-nomad", peers.NomadGroup{Name: "g", Service: "of-nomad", Address: address, Port: "80"})
		if _, _, err := f.nomad.Jobs().Register(j, nil); err != nil {
			return err
		}
		return await(ctx, "Nomad to list it", func() error {
			all, _, err := f.nomad.Services().Get("of-nomad", nil)
			if err == nil && (len(all) != 1 || all[0].Address != address) {
				err = errors.New("it is not listed")
			}
			return err
		})
	case "etcd":
		_, err := f.etcd.Put(ctx, "/wattle/services/default/of-etcd/i1", fmt.Sprintf(`{"address": %q, "ports": [{"number": 80}]}`, address))
		return err
	}
	dir := filepath.Join(f.dir, "services")
	err := writeFile(f.dir, "new.hcl", fmt.Sprintf("service \"of-static\" {\n  port = 80\n  endpoint { address = %q }\n}\n", address))
	return errors.Join(err, os.MkdirAll(dir, 0o700), os.Rename(filepath.Join(f.dir, "new.hcl"), filepath.Join(dir, "static.hcl")))
}

// change gives a registry's service another endpoint and returns how long the Envoy took to have it.
func (f *field) change(ctx context.Context, kind, address string) (time.Duration, error) {
	began := time.Now()
	if err := f.write(ctx, kind, address); err != nil {
		return 0, err
	}
	if kind == "nomad" {
		began = time.Now() // since it is listed: until then Nomad schedules
	}
	err := await(ctx, "Envoy", func() error { return f.has(ctx, 1, address) })
	return time.Since(began), err
}

// has fails as long as the Envoy has not n endpoints of an address.
func (f *field) has(ctx context.Context, n int, address string) error {
	return f.host.shows(ctx, n, address+":80::cx_active::")
}
