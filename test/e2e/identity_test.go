package e2e

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/wattle-mesh/wattle/test/load/echo"
)

// identities is a mesh in which two workloads of one host call shop, and spy, which the test plays itself.
const identities = `
-- mesh.hcl --
mesh { trust_domain = "e2e.example" }
-- h1.hcl --
host "h1" {
  address = "127.0.X.11"

  dynamic "service" {
    for_each = ["web", "batch"]
    labels   = [service.value]
    content {
      port  = 9000 + service.key
      local = "127.0.X.11:${9000 + service.key}"
      upstream "shop" { bind = "127.0.X.11:${9100 + 10 * service.key}" }
      upstream "spy" {
        port = 9080
        bind = "127.0.X.11:${9101 + 10 * service.key}"
      }
      upstream "spy" {
        port = 9090
        bind = "127.0.X.11:${9102 + 10 * service.key}"
      }
    }
  }
}
-- h2.hcl --
host "h2" {
  address = "127.0.X.12"

  service "shop" {
    port    = 9080
    local   = "127.0.X.12:9080"
    command = ["echo"]
  }
}
-- h9.hcl --
host "h9" {
  address = "127.0.X.19"

  service "spy" {
    ports = {
      http  = { number = 9080 }
      lines = { number = 9090, protocol = "tcp" }
    }
  }
}
`

const trustDomain = "spiffe://e2e.example"

// shopSNI is what a caller's proxy asks for at the mesh port of shop's host.
const shopSNI = "9080.shop.default.mesh"

func TestIdentity(t *testing.T) {
	t.Parallel()
	m := newMesh(t, identities, "h9")
	h9 := m.issue(t, "h9", "spy")
	conn := h9.dial(t, m)
	cert, err := h9.sign(t.Context(), conn, trustDomain+"/ns/default/svc/spy")
	if err != nil {
		t.Fatal(err)
	}
	m.reached(t, request{Addr: "127.0.X.11:9100"})
	h9.report(t, conn, "spy")

	t.Run("the callee sees which workload of a host calls", func(t *testing.T) {
		spy(t, m.at("127.0.X.19:7443"), cert, h9.pool)
		m.reached(t, request{Addr: "127.0.X.11:9101"})
		m.reached(t, request{Addr: "127.0.X.11:9111"})
		m.callsCarryTheirIdentity(t)
	})
	t.Run("a callee that holds another identity is not called", func(t *testing.T) {
		for name, wrong := range map[string]*tls.Certificate{"the host's": &h9.cert, "another CA's": forge(t, trustDomain+"/ns/default/svc/spy")} {
			t.Run(name, func(t *testing.T) {
				spy(t, m.at("127.0.X.19:7443"), wrong, h9.pool)
				if resp := m.mustCall(t, request{Addr: "127.0.X.11:9101"}); resp.Status != http.StatusServiceUnavailable {
					t.Errorf("status %d: %s", resp.Status, resp.Body)
				}
				if line, err := say(t, m.at("127.0.X.11:9102"), "hello"); err == nil {
					t.Errorf("TCP answer %q", line)
				}
			})
		}
	})
	t.Run("the mesh port lets in nobody without a certificate of the mesh", func(t *testing.T) { m.meshPortRefuses(t, h9, cert) })
	t.Run("a host cannot have another's identity certified", func(t *testing.T) {
		for _, id := range []string{"/ns/default/svc/shop", "/ns/default/svc/web", "/ns/default/gateway/public", "/node/h2", "/ns/other/svc/spy"} {
			_, err := h9.sign(t.Context(), conn, trustDomain+id)
			if grpcstatus.Code(err) != codes.PermissionDenied {
				t.Errorf("%s: %v, want PermissionDenied", id, err)
			}
		}
	})
}

// callsCarryTheirIdentity calls shop and spy as both workloads of h1 at once, over HTTP and TCP.
func (m *mesh) callsCarryTheirIdentity(t *testing.T) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for i, who := range []string{"web", "batch"} {
		id := trustDomain + "/ns/default/svc/" + who
		port := func(n int) string { return m.at(fmt.Sprintf("127.0.X.11:%d", 9100+10*i+n)) }
		for range 20 {
			wg.Go(func() {
				if resp, err := call(t.Context(), request{Addr: port(0)}); err != nil || resp.Answer.CallerID() != id {
					t.Errorf("%s calls shop: %v, %+v", who, err, resp)
				}
			})
			wg.Go(func() {
				if resp, err := call(t.Context(), request{Addr: port(1), Path: "/x"}); err != nil || resp.Body != id+" /x" {
					t.Errorf("%s calls spy: %v, %+v", who, err, resp)
				}
			})
			wg.Go(func() {
				if line, err := say(t, port(2), "hello"); err != nil || line != id+" hello\n" {
					t.Errorf("%s calls spy over TCP: %v, %q", who, err, line)
				}
			})
		}
	}
}

// meshPortRefuses knocks at shop's mesh port with every wrong credential, and with a right one to know that the
// others are what fails.
func (m *mesh) meshPortRefuses(t *testing.T, n *node, cert *tls.Certificate) {
	addr := m.at("127.0.X.12:7443")
	secure := func(cert *tls.Certificate, sni string) func(net.Conn) net.Conn {
		return func(c net.Conn) net.Conn {
			conf := n.tls(cert)
			conf.ServerName, conf.NextProtos = sni, []string{"http/1.1"}
			return tls.Client(c, conf)
		}
	}
	for _, c := range []struct {
		name string
		wrap func(net.Conn) net.Conn
		in   bool
	}{
		{"a certificate of the mesh", secure(cert, shopSNI), true},
		{"plaintext", func(c net.Conn) net.Conn { return c }, false},
		{"no certificate", secure(nil, shopSNI), false},
		{"a right name from another CA", secure(forge(t, trustDomain+"/ns/default/svc/web"), shopSNI), false},
		{"a certificate of the mesh, for a service that is not there", secure(cert, "9080.other.default.mesh"), false},
		{"a certificate of the mesh, without a name", secure(cert, ""), false},
	} {
		id := "knock " + c.name
		status, err := knock(addr, c.wrap, id)
		received, rerr := echo.Receipts(m.receipts("h2/shop"))
		if rerr != nil {
			t.Fatal(rerr)
		}
		if in := received[id] > 0; in != c.in || (err == nil && status == http.StatusOK) != c.in {
			t.Errorf("%s: status %d, %v; the application received it: %t", c.name, status, err, in)
		}
	}
}

// knock sends one HTTP request on a connection that wrap makes of a plain one, and returns the status of the answer.
func knock(addr string, wrap func(net.Conn) net.Conn, id string) (int, error) {
	plain, err := net.Dial("tcp", addr)
	if err != nil {
		return 0, err
	}
	defer plain.Close()
	if err := plain.SetDeadline(time.Now().Add(callLimit)); err != nil {
		return 0, err
	}
	c := wrap(plain)
	if _, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: shop\r\n%s: %s\r\nConnection: close\r\n\r\n", echo.IDHeader, id); err != nil {
		return 0, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

// TestAHostGetsOnlyWhatItWasGranted has a host register two services, one of which it was not granted.
func TestAHostGetsOnlyWhatItWasGranted(t *testing.T) {
	t.Parallel()
	m := newMesh(t, strings.ReplaceAll(identities, `upstream "spy" {
        port = 9090`, `upstream "extra" {
        port = 9095`), "h9")
	for s, addr := range map[string]string{"shop": "127.0.X.18:9080", "extra": "127.0.X.18:9095"} {
		app, err := echo.Listen(t.Context(), echo.Options{Name: s, Host: "h8", HTTP: []string{m.at(addr)}})
		if err != nil {
			t.Fatal(err)
		}
		serve(t, app.Run)
	}
	m.join("h8", m.at("127.0.X.18"), `
service "shop" {
  port  = 9080
  local = "127.0.X.18:9080"
}
service "extra" {
  port  = 9095
  local = "127.0.X.18:9095"
}
`, "extra")
	m.reached(t, request{Addr: "127.0.X.11:9102"})

	if got := m.tally(t, 50, request{Addr: "127.0.X.11:9100"}, func(r *response) string { return r.Answer.Host }); got["h2"] != 50 {
		t.Errorf("answers of shop: %v, want all by h2", got)
	}
	for service, want := range map[string]string{"shop": "127.0.X.12", "extra": "127.0.X.18"} {
		if got, err := m.endpoints(service); err != nil || len(got) != 1 || got[0].Address != m.at(want) {
			t.Errorf("endpoints of %s: %+v, %v, want %s", service, got, err, m.at(want))
		}
	}
	// extra's name is answered at h8's mesh port, shop's is not: there is no certificate for it.
	h9 := m.issue(t, "h9", "spy")
	cert, err := h9.sign(t.Context(), h9.dial(t, m), trustDomain+"/ns/default/svc/spy")
	if err != nil {
		t.Fatal(err)
	}
	for sni, want := range map[string]bool{"9095.extra.default.mesh": true, shopSNI: false} {
		conf := h9.tls(cert)
		conf.ServerName, conf.NextProtos = sni, []string{"http/1.1"}
		status, err := knock(m.at("127.0.X.18:7443"), func(c net.Conn) net.Conn { return tls.Client(c, conf) }, "")
		if (err == nil && status == http.StatusOK) != want {
			t.Errorf("%s at h8: status %d, %v", sni, status, err)
		}
	}
}

// TestOneRefusedCertificateStopsNobodyElse lets the signing of one workload's certificate fail. Envoy would hold the whole
// listener back for 15 s, so the agent must not give it what needs that certificate. Not parallel: it looks at the clock.
func TestOneRefusedCertificateStopsNobodyElse(t *testing.T) {
	m := newMesh(t, identities, "h1", "h9")
	r := m.relayed(t, "h1", "127.0.X.11", "web,batch", trustDomain+"/ns/default/svc/web")

	eventually(t, "h1's Envoy", func() error {
		if n := len(strings.Fields(m.envoys(t))); n < 2 {
			return fmt.Errorf("%d Envoys", n)
		}
		return nil
	})
	began := time.Now()
	m.reached(t, request{Addr: "127.0.X.11:9110"})
	t.Logf("batch calls %s after its Envoy was started", time.Since(began).Round(time.Millisecond))
	if took := time.Since(began); took > time.Second {
		t.Errorf("batch calls only after %s", took)
	}
	if resp, err := call(t.Context(), request{Addr: m.at("127.0.X.11:9100")}); err == nil && resp.Status == http.StatusOK {
		t.Errorf("web, which has no certificate, calls as %q", resp.Answer.CallerID())
	}
	r.refused.Store("")
	if id := m.reached(t, request{Addr: "127.0.X.11:9100"}).Answer.CallerID(); id != trustDomain+"/ns/default/svc/web" {
		t.Errorf("web calls as %q", id)
	}
}
