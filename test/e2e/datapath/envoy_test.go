package datapath

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netns"

	"github.com/wattle-mesh/wattle/test/space"
)

// envoy is a running Envoy.
type envoy struct {
	log   string // file of what it prints
	admin *http.Client
	kill  func()        // returns when it has ended; may be called again
	done  chan struct{} // closed when it has ended
}

// bootstrap has an Envoy get everything from the test. ID, XDS and ADMIN are filled in.
const bootstrap = `
node: { id: ID, cluster: test }
admin: { address: { pipe: { path: ADMIN } } }
dynamic_resources:
  cds_config: { ads: {}, resource_api_version: V3 }
  lds_config: { ads: {}, resource_api_version: V3 }
  ads_config:
    api_type: DELTA_GRPC
    transport_api_version: V3
    grpc_services: [{ envoy_grpc: { cluster_name: xds } }]
static_resources:
  clusters:
  - name: xds
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: { http2_protocol_options: {} }
    load_assignment:
      cluster_name: xds
      endpoints: [{ lb_endpoints: [{ endpoint: { address: { pipe: { path: XDS } } } }] }]
`

// startEnvoy starts an Envoy in a namespace, nil for the test's own, and has it end with the test, or with the test's process.
func startEnvoy(t *testing.T, dir, id string, in *space.Space) *envoy {
	t.Helper()
	base := filepath.Join(dir, strings.ReplaceAll(id, "/", "-"))
	admin := base + ".sock"
	config := strings.NewReplacer("ID", id, "XDS", filepath.Join(dir, "xds.sock"), "ADMIN", admin).Replace(bootstrap)
	if err := os.WriteFile(base+".yaml", []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	e := &envoy{log: base + ".log", done: make(chan struct{})}
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", admin)
	}}
	e.admin = &http.Client{Transport: transport, Timeout: limit}
	out, err := os.Create(e.log)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command(findEnvoy(t), "-c", base+".yaml", "--use-dynamic-base-id", "--concurrency", "2", "--log-level", "warning", "--file-flush-interval-msec", "50")
	cmd.Stdout, cmd.Stderr = out, out
	binary, err := os.Open(cmd.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer binary.Close()
	cmd.ExtraFiles = []*os.File{binary}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // the death signal is bound to the thread that starts the child
		defer close(e.done)
		var err error
		if in != nil {
			cmd.SysProcAttr.Credential = &syscall.Credential{Uid: proxyUser, Gid: proxyGroup}
			cmd.Path = "/proc/self/fd/3" // its folder may be closed to other users
			err = netns.Set(in.NS)
		}
		if err == nil {
			err = cmd.Start()
		}
		started <- err
		if err == nil {
			_ = cmd.Wait() // it is killed
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	e.kill = func() {
		_ = cmd.Process.Kill() // an error means that it has ended
		<-e.done
	}
	t.Cleanup(func() {
		e.kill()
		if t.Failed() {
			t.Logf("%s:\n%s", id, e.printed())
		}
	})
	return e
}

func findEnvoy(t *testing.T) string {
	t.Helper()
	path := os.Getenv("ENVOY")
	if path == "" {
		path = filepath.Join("..", "..", "..", ".bin", "envoy")
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("no Envoy: %v; make tools fetches it, or set ENVOY", err)
	}
	return path
}

func (e *envoy) ready() error {
	resp, err := e.admin.Get("http://admin/ready")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("envoy is not ready: %s", resp.Status)
	}
	return nil
}

// printed returns what it has printed.
func (e *envoy) printed() string {
	text, err := os.ReadFile(e.log)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// stop ends the server of an application when the test ends, and fails the test if it does not end.
func stop(t *testing.T, what string, shutdown func(context.Context) error) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := shutdown(ctx); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	})
}
