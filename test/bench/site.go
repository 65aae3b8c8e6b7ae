package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/wattle-mesh/wattle/internal/api"
)

// site is the processes of a mesh on this machine: a server, agents with their Envoys, and registries.
type site struct {
	dir       string
	wattle    string // the program
	agents    string // where agents connect
	server    int    // its process
	processes []*exec.Cmd
}

// serve starts the server with a policy and registry blocks.
func (s *site) serve(ctx context.Context, policy, registries string) (err error) {
	if s.agents, err = freeAddress(); err != nil {
		return err
	}
	if err := errors.Join(
		writeFile(filepath.Join(s.dir, "policy"), "mesh.hcl", policy),
		writeFile(s.dir, "server.hcl", fmt.Sprintf("state_dir = \"%[1]s/state\"\npolicy = \"%[1]s/policy\"\nhttp = \"unix:%[1]s/http.sock\"\nagents = %[2]q\n%[3]s",
			s.dir, s.agents, registries)),
	); err != nil {
		return err
	}
	p, err := s.run(ctx, s.wattle, "server", "-config", filepath.Join(s.dir, "server.hcl"))
	if err == nil {
		s.server = p.Process.Pid
	}
	return err
}

// host is an agent with its Envoys.
type host struct {
	run   string // the folder of their sockets
	agent *exec.Cmd
	argv  []string // of the agent
	envoy *http.Client
}

// join starts the agent of a host, which may register these services besides those that the policy declares.
func (s *site) join(ctx context.Context, node, ip string, services ...string) (*host, error) {
	client := api.NewClient(api.ClientOptions{Address: "unix:" + filepath.Join(s.dir, "http.sock"), TokenFile: filepath.Join(s.dir, "state", "admin.token")})
	defer client.Close()
	var token api.TokenResponse
	err := await(ctx, "the server", func() (err error) {
		token, err = client.CreateToken(ctx, api.TokenRequest{Node: node, Services: services})
		return err
	})
	if err != nil {
		return nil, err
	}
	envoy, err := filepath.Abs(first(os.Getenv("ENVOY"), ".bin/envoy"))
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(s.dir, node)
	if err := errors.Join(
		writeFile(dir, "token", token.Token),
		writeFile(dir, "agent.hcl", fmt.Sprintf(`
node           = %q
server         = [%q]
state_dir      = "%[3]s/agent"
run_dir        = "%[3]s/run"
token_file     = "%[3]s/token"
address        = %[4]q
source_address = %[4]q
envoy          = %[5]q
stop_proxies   = true
`, node, s.agents, dir, ip, envoy)),
	); err != nil {
		return nil, err
	}
	h := &host{run: filepath.Join(dir, "run"), argv: []string{s.wattle, "agent", "-config", filepath.Join(dir, "agent.hcl")}}
	h.envoy = asking(filepath.Join(h.run, "*", "admin.sock"))
	h.agent, err = s.run(ctx, h.argv...)
	return h, err
}

// asking makes a client of the Envoy whose admin socket is the first that matches.
func asking(pattern string) *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		socks, err := filepath.Glob(pattern)
		if err != nil || len(socks) == 0 {
			return nil, errors.Join(err, errors.New("no Envoy yet"))
		}
		return new(net.Dialer).DialContext(ctx, "unix", socks[0])
	}}}
}

// ask asks the host's Envoy, or one of them.
func (h *host) ask(ctx context.Context, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://envoy"+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := h.envoy.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", path, resp.Status)
	}
	return string(text), err
}

// shows fails as long as the Envoy does not say something of n endpoints.
func (h *host) shows(ctx context.Context, n int, what string) error {
	text, err := h.ask(ctx, "/clusters")
	if err != nil {
		return err
	}
	if got := strings.Count(text, "::"+what); got < n {
		return fmt.Errorf("it has %d of %d endpoints", got, n)
	}
	return nil
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// run starts a process that ends with the measurement.
func (s *site) run(ctx context.Context, argv ...string) (*exec.Cmd, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // an agent that is killed leaves its Envoy behind
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w; make tools and make build make it", err)
	}
	s.processes = append(s.processes, cmd)
	return cmd, nil
}

// stop ends the processes, the last one first.
func (s *site) stop() {
	for i := len(s.processes) - 1; i >= 0; i-- {
		end(s.processes[i])
	}
	s.processes = nil
}

// end ends a process in good order. It does nothing to one that has ended.
func end(p *exec.Cmd) {
	_ = p.Process.Signal(syscall.SIGTERM) // it may have ended
	_ = p.Wait()                          // some end with the signal as their state
}

// await asks again every millisecond until it is so.
func await(ctx context.Context, what string, ask func() error) error {
	limit := time.After(patience)
	for {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-time.After(time.Millisecond):
		case <-limit:
			return fmt.Errorf("%s: %w", what, err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// rest lets some time pass.
func rest(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
