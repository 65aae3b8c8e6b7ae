package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/wattle-mesh/wattle/adapters/process"
	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api"
	"github.com/wattle-mesh/wattle/internal/pipeline"
	"github.com/wattle-mesh/wattle/internal/xds"
)

func newDev() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dev DIR",
		Short: "Run a whole mesh on this machine, in the foreground",
		Long: `Dev runs a server, an agent and an Envoy for each host block of DIR, and the commands of its services, as one process
tree in the foreground. Hosts are loopback addresses (127.0.0.x); no root is needed. Edit the files in DIR and
watch the mesh follow: processes are those of the policy that the server has in force, whatever the files say. What
that does not name any more goes on until nobody uses it, for 30 s at most, or until something else needs its address.
Its hosts are granted every service, so that wattle service register can be tried: the lines at the start name the agents' sockets.
Ctrl-C, a closed terminal or a closed pipe ends everything and leaves nothing behind: state lives in a temporary
folder.`,
		Args: args(cobra.ExactArgs(1)),
	}
	options := varFlags(cmd)
	http := cmd.Flags().String("http", "127.0.0.1:7500", "where the HTTP API listens, `ADDRESS:PORT`")
	registries := cmd.Flags().String("registries", "", "a `FILE` of registry blocks for the server, which follows its changes")
	agents := cmd.Flags().String("agents", "127.0.0.1:7501", "where agents reach the server, `ADDRESS:PORT`")
	cmd.RunE = func(cmd *cobra.Command, a []string) error {
		o, err := options()
		if err != nil {
			return err
		}
		b := pipeline.Build(a[0], o)
		if err := refuse(cmd.ErrOrStderr(), b.Diagnostics); err != nil {
			return err
		}
		// A write to a pipe that nobody reads shall fail, instead of ending this process with everything left behind.
		signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
		ctx, cancel := context.WithCancel(cmd.Context())
		defer cancel()
		d := &dev{dir: a[0], options: o, http: *http, agents: *agents, registries: *registries, joined: map[string]bool{}, out: newLines(cmd.OutOrStdout(), cancel)}
		return d.run(ctx, b)
	}
	return cmd
}

// followEvery is how often dev asks the server which revision is in force.
const followEvery = 100 * time.Millisecond

// dev is one run of wattle dev.
type dev struct {
	dir          string
	options      configs.Options
	http, agents string
	registries   string // the server's file; empty: one without registries

	out    *lines
	state  string // temporary folder of everything
	self   string // this program
	envoy  string
	client *api.Client
	joined map[string]bool // hosts that have a join token, or used it
}

func (d *dev) say(format string, a ...any) { d.out.Printf("dev", format, a...) }

func (d *dev) run(ctx context.Context, b pipeline.Built) error {
	if len(b.Policy.Hosts) == 0 {
		return &invalid{fmt.Errorf("%s declares no host, so there is nothing to run; add a block such as host \"h1\" { address = \"127.0.0.2\" }", d.dir)}
	}
	var err error
	if d.envoy, err = d.findEnvoy(ctx); err != nil {
		return stopped(ctx, err)
	}
	if d.self, err = os.Executable(); err != nil {
		return err
	}
	if err := free(needs(b, d.http, d.agents)); err != nil {
		return err
	}
	if err := cmp.Or(onLoopback("-http", d.http), onLoopback("-agents", d.agents)); err != nil {
		return err
	}
	if d.dir, err = filepath.Abs(d.dir); err != nil {
		return err
	}
	if d.registries != "" {
		if d.registries, err = filepath.Abs(d.registries); err != nil {
			return err
		}
		_, diags := configs.LoadServer(d.registries)
		if err := refuse(os.Stderr, diags); err != nil {
			return err
		}
	}
	if err := runnable(d.commands(b.Policy)); err != nil {
		return err
	}
	if d.state, err = os.MkdirTemp("", "wattle-dev-"); err != nil {
		return err
	}
	defer os.RemoveAll(d.state)
	procs, err := newProcs(d.out)
	if err != nil {
		return err
	}
	defer procs.Stop()
	d.out.Fit(d.names(b.Policy))
	err = d.mesh(ctx, procs)
	d.say("stopping")
	return err
}

// findEnvoy looks for an Envoy and sees that it is one.
func (d *dev) findEnvoy(ctx context.Context) (string, error) {
	path, err := process.FindEnvoy("")
	if err != nil {
		return "", err
	}
	v, err := envoyVersion(ctx, path)
	if err != nil {
		return "", err
	}
	if !strings.HasPrefix(v, knownEnvoy) {
		d.say("%s is Envoy %s; Wattle is tried with %s only", path, v, knownEnvoy+"x")
	}
	return path, nil
}

// mesh starts everything, says when it is ready, and then follows the policy in force until ctx is done.
func (d *dev) mesh(ctx context.Context, procs *procs) error {
	began := time.Now()
	server, err := d.server()
	if err != nil {
		return err
	}
	d.say("server: policy %s, API http://%s, agents %s", d.dir, d.http, d.agents)
	procs.Set([]proc{server})
	d.client = api.NewClient(api.ClientOptions{Address: d.http, TokenFile: d.tokenFile()})
	defer d.client.Close()
	var now inForce
	answers := func() bool { now, err = d.ask(ctx, inForce{}); return err == nil }
	if err := d.until(ctx, "the server to put the policy in force", answers); err != nil {
		return stopped(ctx, err)
	}
	want, err := d.want(ctx, server, now.policy)
	if err != nil {
		return stopped(ctx, err)
	}
	procs.Set(want)
	proxies := 0
	synced := func() bool { n, ok := d.synced(ctx, now.policy.Hosts); proxies = n; return ok }
	if err := d.until(ctx, "every workload to be reported and every proxy to have its configuration", synced); err != nil {
		return stopped(ctx, err)
	}
	d.ready(now.policy, proxies, time.Since(began))
	d.follow(ctx, now, func(p *configs.Policy) error {
		want, err := d.want(ctx, server, p)
		if err == nil {
			procs.Set(want)
		}
		return err
	})
	return nil
}

// inForce is a policy that the server has put in force. Of what the folder holds besides, dev knows nothing.
type inForce struct {
	revision uint64
	policy   *configs.Policy
}

// ask returns what the server has in force: was itself if that has not changed.
func (d *dev) ask(ctx context.Context, was inForce) (inForce, error) {
	s, err := d.client.Status(ctx)
	if err != nil {
		return was, err
	}
	if !s.Ready {
		return was, errors.New("the server has no policy in force yet")
	}
	if s.Revision == was.revision {
		return was, nil
	}
	text, err := d.client.Policy(ctx)
	if err != nil {
		return was, err
	}
	// It may be of a later revision already. Then the next question finds that number, and the same policy.
	now := inForce{s.Revision, &configs.Policy{}}
	if err := json.Unmarshal(text, now.policy); err != nil {
		return was, fmt.Errorf("the server's policy: %w", err)
	}
	return now, nil
}

// follow calls match with each policy that comes into force after now, until ctx is done. A match that fails is tried
// again: the server may be starting anew.
func (d *dev) follow(ctx context.Context, now inForce, match func(*configs.Policy) error) {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	said := ""
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		next, err := d.ask(ctx, now)
		if err != nil || next == now {
			continue // a server that does not answer says why itself
		}
		if err := match(next.policy); err == nil {
			now, said = next, ""
		} else if ctx.Err() == nil && err.Error() != said {
			said = err.Error()
			d.say("revision %d cannot be followed yet: %s", next.revision, said)
		}
	}
}

// stopped turns an error that the user's Ctrl-C caused into none.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// until polls what the children say of themselves; they are other processes, so there is nothing to wait on.
func (d *dev) until(ctx context.Context, what string, ok func() bool) error {
	limit := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-limit:
			return fmt.Errorf("waited 30s for %s; the lines above say why", what)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// synced counts the proxies, and reports whether each host has one, all have acknowledged what they were sent and all
// workloads were reported.
func (d *dev) synced(ctx context.Context, hosts []*configs.Host) (int, bool) {
	if s, err := d.client.Status(ctx); err != nil || s.Unreported > 0 {
		return 0, false
	}
	proxies, err := d.client.Proxies(ctx)
	if err != nil || slices.ContainsFunc(proxies, func(p xds.ProxyStatus) bool { return !p.Synced }) {
		return 0, false
	}
	for _, h := range hosts {
		if !slices.ContainsFunc(proxies, func(p xds.ProxyStatus) bool { return strings.HasPrefix(p.ID, h.Name+"/") }) {
			return 0, false
		}
	}
	return len(proxies), true
}

func (d *dev) tokenFile() string { return filepath.Join(d.state, "server", "admin.token") }

func (d *dev) ready(policy *configs.Policy, proxies int, took time.Duration) {
	d.say("ready in %s: %s, %s", took.Round(10*time.Millisecond), count(len(policy.Hosts), "host", "hosts"), count(proxies, "proxy", "proxies"))
	for _, g := range policy.Gateways {
		for _, s := range g.Servers {
			d.say("gateway %s: http://%s/", g.Name, s.Bind)
		}
	}
	d.say("register a workload: %s service register -socket %s", os.Args[0], filepath.Join(d.state, "HOST", "run", "agent.sock"))
	d.say("commands that change something: export %s=%s", tokenFileEnv, d.tokenFile())
	d.say("look around: %[1]s status, %[1]s proxy status; edit %[2]s and watch this; Ctrl-C ends it all", os.Args[0], d.dir)
}
