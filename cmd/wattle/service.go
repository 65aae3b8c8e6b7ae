package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api"
)

const socketEnv = "WATTLE_SOCKET"

func newService() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "service",
		Short: "Register workloads and services, and see what is registered",
		Long: `Service registers workloads at this host's agent, through its unix socket: root may, the agent's user, and the user of the
systemd unit that a registration names, as the service of the unit's name or one that a unit block of agent.hcl lists. With
-server, or with an -address, it registers endpoints without an agent at the server's API, which needs the admin token. What is registered stays until it is deregistered, also when the agent, the
server or the host starts anew.`,
	}
	cmd.AddCommand(newServiceRegister(), newServiceDeregister(), newServiceList(), newServiceDescribe(), newServiceHeartbeat(), newServiceDrain(), newServiceRun())
	return cmd
}

// desk is where registrations are kept: an agent, a server or a registry that is written to.
type desk interface {
	RegisterAll(context.Context, api.ServicesRequest) ([]api.ServiceAnswer, error) // all or none
	Leave(ctx context.Context, ref api.ServiceRef, run string) (api.ServiceAnswer, error)
	Deregister(context.Context, api.ServiceRef) (api.ServiceAnswer, error)
	Heartbeat(context.Context, api.ServiceRef) (api.ServiceAnswer, error)
	Close()
}

// placeFlags say which desk it is.
type placeFlags struct {
	socket, server string
	token          func() string
	writer         *writerFlags // nil: the command writes to no other registry
}

func newPlaceFlags(cmd *cobra.Command) *placeFlags {
	p := &placeFlags{}
	cmd.Flags().StringVar(&p.socket, "socket", "", "the agent's unix socket, a `PATH` (default $"+socketEnv+" or /run/wattle/agent.sock)")
	cmd.Flags().StringVar(&p.server, "server", "", "the server's HTTP API instead of the agent, `ADDRESS:PORT` or unix:PATH")
	p.token = tokenFlag(cmd, ", for -server")
	return p
}

// client returns how to reach the agent, or the server if it is asked for or elsewhere is set.
func (p *placeFlags) client(elsewhere bool) *api.Client {
	if p.server != "" || elsewhere {
		addr := strings.TrimPrefix(first(p.server, os.Getenv(addrEnv), "127.0.0.1:7500"), "http://")
		return api.NewClient(api.ClientOptions{Address: strings.TrimSuffix(addr, "/"), TokenFile: p.token()})
	}
	path := first(p.socket, os.Getenv(socketEnv), "/run/wattle/agent.sock")
	return api.NewClient(api.ClientOptions{Address: "unix:" + strings.TrimPrefix(path, "unix:"), Agent: true})
}

// desk returns where to register: the registry that is named, else the agent, or the server if elsewhere is set.
func (p *placeFlags) desk(elsewhere bool) (desk, error) {
	to, err := p.writer.open()
	if err != nil {
		return nil, err
	}
	if to != nil {
		return to, nil
	}
	return p.client(elsewhere), nil
}

// refFlags name registrations that are there.
type refFlags struct{ namespace, instance, address string }

func newRefFlags(cmd *cobra.Command) *refFlags {
	r := &refFlags{}
	cmd.Flags().StringVar(&r.namespace, "namespace", "", "the service's `NAMESPACE` (default \"default\")")
	cmd.Flags().StringVar(&r.instance, "instance", "", "which `INSTANCE` of the service")
	return r
}

// ref reads NAME, NAMESPACE/NAME or NAMESPACE/NAME/INSTANCE.
func (r *refFlags) ref(text string) (api.ServiceRef, error) {
	out := api.ServiceRef{Namespace: first(r.namespace, "default"), Name: text, Instance: r.instance}
	switch parts := strings.Split(text, "/"); len(parts) {
	case 1:
	case 2, 3:
		if r.namespace != "" && r.namespace != parts[0] || len(parts) == 3 && r.instance != "" && r.instance != parts[2] {
			return out, &invalid{fmt.Errorf("%s says something else than the flags", text)}
		}
		out.Namespace, out.Name = parts[0], parts[1]
		if len(parts) == 3 {
			out.Instance = parts[2]
		}
	default:
		return out, &invalid{fmt.Errorf("%q names no service; write NAME, NAMESPACE/NAME or NAMESPACE/NAME/INSTANCE", text)}
	}
	return out, nil
}

func newServiceRegister() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "register FILE | -name NAME -port PORT",
		Short: "Register a workload of this host, or a service elsewhere",
		Long: `Register registers what FILE declares, in the language of services.d, or what the flags say; of several services all, or none if
one cannot be, and says in which line that is. A registration that is the
same as before changes nothing. It waits up to 5 s for the server's word on it, and fails if the server refuses it: a host may
register what it was granted; the registration stays, and counts once it is granted. With -ttl it needs heartbeats.

  wattle service register -name web -port 80 -unit web.service -check http=/healthz
  wattle service register web.hcl
  wattle service register -name db -port 5432/tcp -address 10.0.0.9     at the server, for a machine without an agent

With -registry etcd it writes a key that registries of type etcd read, with a lease of -ttl, and needs an -address. Of several services
none is written if one cannot be; but if the cluster fails halfway, what was written stays, and the next try writes the rest.`,
		Args: args(cobra.MaximumNArgs(1)),
	}
	place := newPlaceFlags(cmd)
	place.writer = newWriterFlags(cmd)
	flags := newDeclareFlags(cmd)
	wait := cmd.Flags().Duration("wait", 5*time.Second, "how long to wait for the server's word, up to 30s; 0s: not")
	asJSON := cmd.Flags().Bool("json", false, "print JSON, the API's answers")
	cmd.RunE = func(cmd *cobra.Command, a []string) error {
		if *wait < 0 || *wait > api.MaxWait {
			return &invalid{fmt.Errorf("-wait %s: it is from 0s to %s", *wait, api.MaxWait)}
		}
		services, err := flags.services(cmd.ErrOrStderr(), a)
		if err != nil {
			return err
		}
		to, err := place.desk(len(services[0].Endpoints) > 0)
		if err != nil {
			return err
		}
		defer to.Close()
		answers, err := to.RegisterAll(cmd.Context(), api.ServicesRequest{Services: services, Wait: configs.Duration(*wait)})
		if err != nil {
			return faulty(err)
		}
		for _, got := range answers {
			if !*asJSON {
				fmt.Fprintln(cmd.OutOrStdout(), registered(got))
			}
		}
		if *asJSON {
			if err := printJSON(cmd.OutOrStdout(), answers); err != nil {
				return err
			}
		}
		for _, got := range answers {
			if got.State == api.StateRefused {
				return fmt.Errorf("%s is refused: %s", got.ServiceRef, got.Reason)
			}
		}
		return nil
	}
	return cmd
}

// registered says in a line what came of a registration.
func registered(got api.ServiceAnswer) string {
	text := got.ServiceRef.String() + ": registered"
	if !got.Changed {
		text = got.ServiceRef.String() + ": registered already, nothing changed"
	}
	if got.State == api.StatePending {
		text += "; " + got.Reason
	}
	return text
}

// faulty makes an error the user's if the request was at fault.
func faulty(err error) error {
	if e, ok := errors.AsType[*api.Error](err); ok && e.Status == http.StatusBadRequest {
		return &invalid{err}
	}
	return err
}

func newServiceDeregister() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "deregister NAME...",
		Short: "End registrations",
		Long: `Deregister ends the registrations of NAME, NAMESPACE/NAME or NAMESPACE/NAME/INSTANCE. Callers leave at once; what is
deregistered is never held. That there is none is no error. What a file of services.d declares goes with the file.`,
		Args: args(cobra.MinimumNArgs(1)),
	}
	place, flags := newPlaceFlags(cmd), newRefFlags(cmd)
	place.writer = newWriterFlags(cmd)
	addressFlag(cmd, &flags.address)
	asJSON := cmd.Flags().Bool("json", false, "print JSON, the API's answers")
	cmd.RunE = func(cmd *cobra.Command, a []string) error {
		refs, err := flags.refs(a)
		if err != nil {
			return err
		}
		from, err := place.desk(flags.address != "")
		if err != nil {
			return err
		}
		defer from.Close()
		var answers []api.ServiceAnswer
		for _, ref := range refs {
			got, err := from.Deregister(cmd.Context(), ref)
			if err != nil {
				return faulty(err)
			}
			answers = append(answers, got)
			switch {
			case *asJSON:
			case got.Changed:
				fmt.Fprintf(cmd.OutOrStdout(), "%s: deregistered\n", ref)
			default:
				fmt.Fprintf(cmd.OutOrStdout(), "%s: was not registered\n", ref)
			}
		}
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), answers)
		}
		return nil
	}
	return cmd
}

func newServiceList() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Say what is registered",
		Long: `List prints what is registered at this host's agent, by files and by wattle service register; with -server what is registered at
the server without an agent. STATE is accepted, refused or pending (the server has not spoken yet); wattle service describe says why.`,
		Args: args(cobra.NoArgs),
	}
	place := newPlaceFlags(cmd)
	asJSON := cmd.Flags().Bool("json", false, "print JSON, the API's /v1/services")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		at := place.client(false)
		defer at.Close()
		all, err := at.Services(cmd.Context())
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), api.Services{Services: all})
		}
		rows := [][]string{{"SERVICE", "INSTANCE", "PORTS", "STATE", "HEALTH", "HEARTBEAT", "ORIGIN"}}
		for _, s := range all {
			rows = append(rows, []string{s.Namespace + "/" + s.Name, dash(s.Instance), portsOf(s.Service), s.State, s.Health, since(s.Heartbeat), s.Origin})
		}
		return table(cmd.OutOrStdout(), rows)
	}
	return cmd
}

// portsOf lists ports as "80/http,90/tcp".
func portsOf(s *configs.Service) string {
	var out []string
	for _, p := range s.Ports {
		out = append(out, fmt.Sprintf("%d/%s", p.Number, p.Protocol))
	}
	return dash(strings.Join(out, ","))
}

func newServiceDescribe() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "describe NAME",
		Short: "Say all of a registration",
		Long: `Describe prints where a service was declared, by whom and when, its ports, its health with the reason, its ttl, and why the
server refuses it if it does. Without -instance it prints all instances.`,
		Args: args(cobra.ExactArgs(1)),
	}
	place, flags := newPlaceFlags(cmd), newRefFlags(cmd)
	asJSON := cmd.Flags().Bool("json", false, "print JSON, as of wattle service list")
	cmd.RunE = func(cmd *cobra.Command, a []string) error {
		ref, err := flags.ref(a[0])
		if err != nil {
			return err
		}
		at := place.client(false)
		defer at.Close()
		all, err := at.Services(cmd.Context())
		if err != nil {
			return err
		}
		all = slices.DeleteFunc(all, func(s api.ServiceStatus) bool {
			return s.Namespace != ref.Namespace || s.Name != ref.Name || ref.Instance != "" && s.Instance != ref.Instance
		})
		if len(all) == 0 {
			return &invalid{fmt.Errorf("%s is not registered here; wattle service list shows what is", ref)}
		}
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), api.Services{Services: all})
		}
		for i, s := range all {
			if i > 0 {
				fmt.Fprintln(cmd.OutOrStdout())
			}
			if err := writeService(cmd.OutOrStdout(), s); err != nil {
				return err
			}
		}
		return nil
	}
	return cmd
}

// writeService writes a registration for a person.
func writeService(w io.Writer, s api.ServiceStatus) error {
	because := func(what, why string) string {
		if why == "" {
			return what
		}
		return what + ": " + why
	}
	rows := [][]string{{"service", s.ServiceRef.String()}, {"state", because(s.State, s.Reason)}, {"health", because(s.Health, s.HealthReason)}, {"declared by", s.Origin}}
	add := func(name, value string) {
		if value != "" {
			rows = append(rows, []string{name, value})
		}
	}
	if s.UID != nil {
		add("user", fmt.Sprintf("uid %d", *s.UID))
	}
	if !s.Registered.IsZero() {
		add("registered", s.Registered.Local().Format(time.DateTime)+" ("+ago(s.Registered)+")")
	}
	add("unit", s.Service.Unit)
	if s.Drain != nil {
		add("drain", drainState(*s.Drain))
	}
	if s.Service.TTL > 0 {
		add("ttl", time.Duration(s.Service.TTL).String())
		add("last heartbeat", since(s.Heartbeat))
	}
	if s.Service.DeregisterAfter > 0 {
		add("deregister after", time.Duration(s.Service.DeregisterAfter).String())
	}
	for _, p := range s.Service.Ports {
		text := fmt.Sprintf("%d/%s", p.Number, p.Protocol)
		if p.Local.IsValid() {
			text += " at " + p.Local.String()
		}
		add("port", strings.TrimSpace(p.Name+" "+text))
	}
	for _, e := range s.Service.Endpoints {
		add("endpoint", fmt.Sprintf("%s for port %d", hostPort(e), e.PortFor))
	}
	for _, c := range s.Service.Checks {
		add("check", fmt.Sprintf("%s %s every %s", c.Type, first(c.Path, fmt.Sprint(c.Port)), time.Duration(c.Interval)))
	}
	for _, u := range s.Service.Upstreams {
		at := u.Socket
		if u.Bind.IsValid() {
			at = u.Bind.String()
		}
		add("upstream", u.Service.Namespace+"/"+u.Service.Name+" at "+at)
	}
	keys := make([]string, 0, len(s.Service.Meta))
	for k, v := range s.Service.Meta {
		keys = append(keys, k+" = "+v)
	}
	slices.Sort(keys)
	for _, kv := range keys {
		add("meta", kv)
	}
	return table(w, rows)
}
