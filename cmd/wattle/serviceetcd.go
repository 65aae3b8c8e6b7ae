package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api"
	"github.com/wattle-mesh/wattle/registry"
	"github.com/wattle-mesh/wattle/registry/etcd"
)

// writerFlags say which registry is written to instead of Wattle's own.
type writerFlags struct {
	cmd                *cobra.Command
	kind, config, name string
	etcd               etcd.WriterOptions
}

// etcdFlags are those of writerFlags that a registry block has instead.
func etcdFlags() []string {
	return []string{"endpoint", "prefix", "username", "password-file", "ca-file", "cert-file", "key-file", "server-name"}
}

func newWriterFlags(cmd *cobra.Command) *writerFlags {
	w := &writerFlags{cmd: cmd}
	fl := cmd.Flags()
	fl.StringVar(&w.kind, "registry", "", "write to a registry of this `TYPE` instead: etcd")
	fl.StringSliceVar(&w.etcd.Endpoints, "endpoint", nil, "with -registry: a member of the cluster, a `URL`; may be repeated")
	fl.StringVar(&w.etcd.Prefix, "prefix", "", "with -registry: what all keys begin with (default \"/wattle/services/\")")
	fl.StringVar(&w.etcd.Username, "username", "", "with -registry: the `USER` to log in as")
	fl.StringVar(&w.etcd.PasswordFile, "password-file", "", "with -registry: the `FILE` with the user's password")
	fl.StringVar(&w.etcd.CAFile, "ca-file", "", "with -registry: the `FILE` of who signs the members' certificates")
	fl.StringVar(&w.etcd.CertFile, "cert-file", "", "with -registry: the `FILE` of the client certificate")
	fl.StringVar(&w.etcd.KeyFile, "key-file", "", "with -registry: the `FILE` of its key")
	fl.StringVar(&w.etcd.ServerName, "server-name", "", "with -registry: the `NAME` in the members' certificates")
	fl.StringVar(&w.config, "config", "", "with -registry: take all of that from a registry block of a server's `FILE`")
	fl.StringVar(&w.name, "registry-name", "", "with -config: the block's `NAME`; not needed if there is one of the type")
	return w
}

// open returns the registry that is written to, nil if none is asked for.
func (w *writerFlags) open() (*etcdDesk, error) {
	changed := func(names ...string) string {
		i := slices.IndexFunc(names, func(name string) bool { return w.cmd.Flags().Changed(name) })
		if i < 0 {
			return ""
		}
		return names[i]
	}
	if w.kind == "" {
		if name := changed(append(etcdFlags(), "config", "registry-name")...); name != "" {
			return nil, wrong("-%s is for -registry etcd", name)
		}
		return nil, nil
	}
	if w.kind != "etcd" {
		return nil, wrong("-registry %s: only etcd can be written to", w.kind)
	}
	if name := changed("server", "socket"); name != "" {
		return nil, wrong("-%s beside -registry: write to one of them", name)
	}
	o := registry.DriverOptions{Name: first(w.name, "flags"), Log: slog.New(slog.DiscardHandler)}
	if w.config == "" {
		if w.name != "" {
			return nil, wrong("-registry-name needs -config, the server's file with the block")
		}
		to, err := etcd.NewWriter(w.etcd, o)
		if err != nil {
			return nil, wrong("-registry etcd: %w", err)
		}
		return &etcdDesk{to}, nil
	}
	if name := changed(etcdFlags()...); name != "" {
		return nil, wrong("-%s beside -config: the registry block says it", name)
	}
	r, err := w.block()
	if err != nil {
		return nil, err
	}
	o.Name, o.Dir, o.Eval = r.Name, filepath.Dir(w.config), r.Eval
	to, diags := etcd.OpenWriter(r.Body, o)
	if err := refuse(w.cmd.ErrOrStderr(), r.Diagnostics(diags)); err != nil {
		return nil, err
	}
	return &etcdDesk{to}, nil
}

// block finds the registry block of the server's file.
func (w *writerFlags) block() (configs.Registry, error) {
	cfg, diags := configs.LoadServer(w.config)
	if err := refuse(w.cmd.ErrOrStderr(), diags); err != nil {
		return configs.Registry{}, err
	}
	var found []configs.Registry
	for _, r := range cfg.Registries {
		if r.Type == w.kind && (w.name == "" || r.Name == w.name) {
			found = append(found, r)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return configs.Registry{}, wrong("%s has no registry %q %q", w.config, w.kind, first(w.name, "..."))
	}
	return configs.Registry{}, wrong("%s has several registries %q: say which with -registry-name", w.config, w.kind)
}

// etcdDesk registers in etcd.
type etcdDesk struct{ to *etcd.Writer }

// Close ends the connection.
func (d *etcdDesk) Close() { d.to.Close() }

// RegisterAll implements desk: all are looked at before the first is written. That the cluster fails halfway is not undone; the
// next try writes the rest.
func (d *etcdDesk) RegisterAll(ctx context.Context, r api.ServicesRequest) ([]api.ServiceAnswer, error) {
	for _, s := range r.Services {
		e, err := entryOf(s)
		if err == nil {
			err = d.fault(refOf(s), d.to.Check(e))
		}
		if err != nil {
			return nil, api.Of(s, r.Services, err)
		}
	}
	var out []api.ServiceAnswer
	for _, s := range r.Services {
		got, err := d.register(ctx, s, r.Run)
		if err != nil {
			return out, err
		}
		out = append(out, got)
	}
	return out, nil
}

func (d *etcdDesk) register(ctx context.Context, s *configs.Service, run api.Run) (api.ServiceAnswer, error) {
	e, err := entryOf(s)
	if err != nil {
		return api.ServiceAnswer{}, err
	}
	var changed bool
	if run.ID == "" {
		changed, err = d.to.Put(ctx, e, time.Duration(s.TTL))
	} else {
		changed, err = d.to.Hold(ctx, e, time.Duration(s.TTL), run.Renew)
	}
	if errors.Is(err, etcd.ErrEnded) {
		return api.DismissedAnswer(s, d.to.Key(e.Service, e.Instance)+" was deregistered"), nil
	}
	if err != nil {
		return api.ServiceAnswer{}, d.fault(refOf(s), err)
	}
	return api.ServiceAnswer{Changed: changed, ServiceStatus: api.ServiceStatus{
		ServiceRef: refOf(s), Service: s, Origin: d.to.Key(e.Service, e.Instance), State: api.StateAccepted, Health: "unknown",
	}}, nil
}

// Leave implements desk: what this process has written counts as the run's.
func (d *etcdDesk) Leave(ctx context.Context, ref api.ServiceRef, _ string) (api.ServiceAnswer, error) {
	was, err := d.to.Leave(ctx, nameOf(ref), ref.Instance)
	return api.ServiceAnswer{ServiceStatus: api.ServiceStatus{ServiceRef: ref}, Changed: was}, d.fault(ref, err)
}

// Deregister implements desk.
func (d *etcdDesk) Deregister(ctx context.Context, ref api.ServiceRef) (api.ServiceAnswer, error) {
	if ref.Instance == "" {
		return api.ServiceAnswer{}, nameless(ref)
	}
	was, err := d.to.Delete(ctx, nameOf(ref), ref.Instance)
	return api.ServiceAnswer{ServiceStatus: api.ServiceStatus{ServiceRef: ref}, Changed: was}, d.fault(ref, err)
}

// Heartbeat implements desk.
func (d *etcdDesk) Heartbeat(ctx context.Context, ref api.ServiceRef) (api.ServiceAnswer, error) {
	if ref.Instance == "" {
		return api.ServiceAnswer{}, nameless(ref)
	}
	err := d.to.Beat(ctx, nameOf(ref), ref.Instance)
	return api.ServiceAnswer{ServiceStatus: api.ServiceStatus{ServiceRef: ref}}, d.fault(ref, err)
}

func nameless(ref api.ServiceRef) error {
	return wrong("%s: say which instance in etcd is meant: -address or -instance", ref)
}

func nameOf(ref api.ServiceRef) registry.Name {
	return registry.Name{Namespace: ref.Namespace, Name: ref.Name}
}

// fault gives the errors of a Writer the codes that those of agents and servers have.
func (d *etcdDesk) fault(ref api.ServiceRef, err error) error {
	key := d.to.Key(nameOf(ref), ref.Instance)
	switch {
	case errors.Is(err, etcd.ErrEntry):
		return &api.Error{Status: http.StatusBadRequest, Message: err.Error(), Remedy: "see docs/registries.md, on etcd", Code: api.CodeMalformed}
	case errors.Is(err, etcd.ErrMissing):
		return &api.Error{Status: http.StatusNotFound, Message: fmt.Sprintf("etcd has no %s", key), Remedy: "register it", Code: api.CodeUnknown}
	case errors.Is(err, etcd.ErrNoLease):
		return &api.Error{Status: http.StatusConflict, Message: key + " needs no heartbeats: it has no lease", Remedy: "register it with -ttl", Code: api.CodeNoTTL}
	}
	return err
}

// entryOf makes of a service with endpoints at one address what is written.
func entryOf(s *configs.Service) (etcd.Entry, error) {
	e := etcd.Entry{Service: registry.Name{Namespace: s.Namespace, Name: s.Name}, Instance: s.Instance, Meta: map[string]string{}}
	switch {
	case len(s.Endpoints) == 0:
		return e, wrong("service %s: an instance in etcd needs an address: -address, or an endpoint block", s.Name)
	case len(s.Checks)+len(s.Upstreams) > 0 || s.Unit != "" || s.DeregisterAfter != 0:
		return e, wrong("service %s: in etcd nothing has checks, upstreams, a unit or a time after which it is deregistered; the lease of -ttl ends it", s.Name)
	}
	e.Address, e.Weight = s.Endpoints[0].Address, s.Endpoints[0].Weight
	for _, labels := range []map[string]string{s.Meta, s.Endpoints[0].Meta} {
		for k, v := range labels {
			e.Meta[k] = v
		}
	}
	for _, o := range s.Endpoints {
		if o.Address != e.Address {
			return e, wrong("service %s: an instance in etcd has one address; register %s as another", s.Name, o.Address)
		}
		p := etcd.EntryPort{Target: o.Port}
		for _, q := range s.Ports {
			if q.Number == o.PortFor || len(s.Ports) == 1 {
				p.Port = registry.Port{Number: q.Number, Name: q.Name, Protocol: registry.Protocol(q.Protocol)}
			}
		}
		if p.Target == p.Number {
			p.Target = 0
		}
		e.Ports = append(e.Ports, p)
	}
	if strings.Contains(s.Instance, "/") {
		return e, wrong("service %s: no instance can be called %q", s.Name, s.Instance)
	}
	return e, nil
}
