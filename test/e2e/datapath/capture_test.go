package datapath

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wattle-mesh/wattle/internal/capture"
	"github.com/wattle-mesh/wattle/internal/mesh"
	"github.com/wattle-mesh/wattle/internal/mesh/planpb"
	"github.com/wattle-mesh/wattle/registry"
	"github.com/wattle-mesh/wattle/test/space"
)

// The users of hosts in namespaces. None of them need exist.
const (
	proxyUser  = 4400
	proxyGroup = 4400
	loopUser   = 4401
	buyerUser  = 4402
	sellerUser = 4403
	otherUser  = 4404
)

// capturePolicy has loop call by name, and buyer and seller whatever they like, from h1.
const capturePolicy = `
-- mesh.hcl --
mesh { trust_domain = "path.example" }
-- hosts.hcl --
host "h1" {
  address = "10.9.1.1"
  service "loop" {
    port = 8000
    capture "loopback" {}
  }
  service "buyer" {
    port = 8001
    capture "transparent" { user = "4402" }
  }
  service "seller" {
    port = 8002
    capture "transparent" { user = "4403" }
  }
  service "till" { port = 8003 }
}
host "h2" {
  address = "10.9.1.2"
  service "shop" { port = 9080 }
  service "lines" {
    port     = 7000
    protocol = "tcp"
  }
}
`

// hosts are namespaces that play h1 and h2.
type hosts struct {
	*path
	h1, h2                   *space.Space
	till, open, shop, beside *app // open is till at its host's own address
	loop, buyer, sellerView  *mesh.ScopeCapture
}

func newHosts(t *testing.T, v6 bool) *hosts {
	t.Helper()
	h := &hosts{h1: space.New(t), h2: space.New(t)}
	at1, at2 := []string{"10.9.1.1/24"}, []string{"10.9.1.2/24"}
	if v6 {
		at1, at2 = append(at1, "fd09::1/64"), append(at2, "fd09::2/64")
	} else {
		h.h1.In(func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0) })
	}
	space.Join(h.h1, h.h2, at1, at2)
	h.path = newPathIn(t, capturePolicy, map[string]*space.Space{"h1": h.h1, "h2": h.h2})
	listen := func(s *space.Space, addr string) (l net.Listener) {
		s.In(func() (err error) { l, err = net.Listen("tcp", addr); return err })
		return l
	}
	h.till = serveApp(t, "till", listen(h.h1, "127.0.0.1:8003"))
	h.open = serveApp(t, "open", listen(h.h1, "10.9.1.1:8003"))
	h.shop = serveApp(t, "shop", listen(h.h2, "127.0.0.1:9080"))
	h.beside = serveApp(t, "beside", listen(h.h2, ":8088"))
	serveLines(t, "lines", listen(h.h2, "127.0.0.1:7000"))
	for _, s := range h.view.Proxy("h1/host").Scopes {
		switch s.Service.Name {
		case "loop":
			h.loop = s.Capture
		case "buyer":
			h.buyer = s.Capture
		case "seller":
			h.sellerView = s.Capture
		}
	}
	h.guard()
	return h
}

// guard makes the table that an agent makes of this plan.
func (h *hosts) guard() {
	h.t.Helper()
	owner := func(uid uint32) capture.Owner { return capture.Owner{UIDs: []uint32{uid}} }
	r := capture.Rules{
		Exempt: proxyGroup, Passed: planpb.PassedPriority,
		Redirects: []capture.Redirect{{For: "buyer", Owner: owner(buyerUser), Port: h.buyer.RedirectPort}, {For: "seller", Owner: owner(sellerUser), Port: h.sellerView.RedirectPort}},
		Doors: []capture.Door{
			{For: "loop", To: h.loop.Slice, Owner: owner(loopUser)},
			{For: "buyer", To: netip.MustParsePrefix("127.0.0.1/32"), Port: h.buyer.RedirectPort, Owner: owner(buyerUser)},
			{For: "till", To: netip.MustParsePrefix("127.0.0.1/32"), Port: 8003, Also: []uint32{0}},
			{For: "till", Port: 8003, Also: []uint32{0}},
		},
		Closed: []capture.Closed{{Port: 8003}},
	}
	if err := (capture.Table{NetNS: int(h.h1.NS)}).Replace(r); err != nil {
		h.t.Fatal(err)
	}
}

// dial connects as a user of a host.
func dial(s *space.Space, uid int, addr string) (conn net.Conn, err error) {
	err = s.Try(func() (err error) {
		// Of this thread alone, which ends with f.
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); e != 0 {
			return e
		}
		conn, err = net.DialTimeout("tcp", addr, 5*time.Second)
		return err
	})
	return conn, err
}

// calls has a user of h1 send a request, and returns who answers with which status, or that nobody does.
func (h *hosts) calls(uid int, addr, host string) string {
	h.t.Helper()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) { return dial(h.h1, uid, addr) }}
	r := request(h.t, "GET", "/")
	r.Host, r.URL.Host = host, host
	resp, err := transport.RoundTrip(r)
	if err != nil {
		if strings.Contains(err.Error(), "connection refused") || strings.Contains(err.Error(), "reset by peer") || errors.Is(err, io.EOF) {
			return "refused"
		}
		return err.Error()
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Sprint(resp.StatusCode)
	}
	name, err := bufio.NewReader(resp.Body).ReadString(0)
	if name == "" {
		return err.Error()
	}
	return name
}

// callers lists whom an application has been called by since the last time.
func callers(a *app) string {
	var out []string
	for _, r := range a.requests() {
		_, id, _ := strings.Cut(r.Header.Get("X-Forwarded-Client-Cert"), "URI="+identity(""))
		id, _, _ = strings.Cut(id, ";")
		out = append(out, "by "+id)
	}
	return strings.Join(out, ", ")
}

// name returns where a service is found in the slice of loop.
func (h *hosts) name(service string) string {
	for _, s := range h.loop.Surface.Services {
		if s.Service == (registry.Name{Namespace: "default", Name: service}) {
			return s.In(h.loop.Slice).String()
		}
	}
	h.t.Fatalf("loop does not reach %s", service)
	return ""
}

func TestCapture(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("IPv6 %v", v6), func(t *testing.T) { captured(t, newHosts(t, v6), v6) })
	}
}

func captured(t *testing.T, h *hosts, v6 bool) {
	shop := h.name("shop")
	all := []struct {
		what       string
		uid        int
		addr, host string
		want, seen string // who answers, and whom the application sees
		app        *app
	}{
		{"a name", loopUser, shop + ":9080", "shop.mesh", "shop", "by loop", h.shop},
		{"a short name", loopUser, shop + ":9080", "shop", "shop", "by loop", h.shop},
		{"a name that is no service's", loopUser, shop + ":9080", "elsewhere", "404", "", h.shop},
		{"another user at the slice", otherUser, shop + ":9080", "shop.mesh", "refused", "", h.shop},
		{"a captured user at another's slice", buyerUser, shop + ":9080", "shop.mesh", "refused", "", h.shop},
		{"root at the slice", 0, shop + ":9080", "shop.mesh", "refused", "", h.shop},
		{"transparent", buyerUser, "10.9.1.2:9080", "shop", "shop", "by buyer", h.shop},
		{"transparent, the other user", sellerUser, "10.9.1.2:9080", "shop", "shop", "by seller", h.shop},
		{"transparent, an address where nobody is", sellerUser, "10.9.1.99:9080", "shop", "shop", "by seller", h.shop},
		{"who is not captured goes where it goes", otherUser, "10.9.1.2:9080", "shop", "refused", "", h.shop},
		{"what is no service's goes on", buyerUser, "10.9.1.2:8088", "shop", "beside", "by ", h.beside},
		{"on a service's port, too", buyerUser, "10.9.1.2:9080", "beside", "503", "", h.shop},
		{"another user at the redirect port", otherUser, fmt.Sprintf("127.0.0.1:%d", h.buyer.RedirectPort), "shop", "refused", "", h.shop},
		{"its own user there: no loop", buyerUser, fmt.Sprintf("127.0.0.1:%d", h.buyer.RedirectPort), "shop", "refused", "", h.shop},
		{"a service of the same host at its own address, by name", buyerUser, "10.9.1.1:8003", "till", "till", "by buyer", h.till},
		{"and past the mesh", buyerUser, "10.9.1.1:8003", "beside", "503", "", h.open},
		{"past the mesh as another user", otherUser, "10.9.1.1:8003", "till", "refused", "", h.open},
		{"at loopback", otherUser, "127.0.0.1:8003", "till", "refused", "", h.till},
		{"at loopback, who is captured", buyerUser, "127.0.0.1:8003", "till", "refused", "", h.till},
	}
	if v6 {
		more := all[0]
		more.what, more.uid, more.addr, more.host, more.seen = "transparent over IPv6", buyerUser, "[fd09::2]:9080", "shop", "by buyer"
		all = append(all, more)
		more.what, more.addr, more.want, more.seen, more.app = "what is no service's, over IPv6", "[fd09::2]:8088", "beside", "by ", h.beside
		all = append(all, more)
	}
	for _, c := range all {
		t.Run(c.what, func(t *testing.T) {
			h.t = t
			c.app.requests()
			if got := h.calls(c.uid, c.addr, c.host); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
			if got := callers(c.app); got != c.seen {
				t.Errorf("it is called %q, want %q", got, c.seen)
			}
		})
	}
	t.Run("bytes to a name", func(t *testing.T) {
		conn, err := dial(h.h1, loopUser, h.name("lines")+":7000")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintln(conn, "hello")
		if line, err := bufio.NewReader(conn).ReadString('\n'); line != "lines: hello\n" {
			t.Errorf("%q, %v", line, err)
		}
	})
	t.Run("other hosts do not reach the application past its proxy", func(t *testing.T) {
		if conn, err := dial(h.h2, 0, "10.9.1.1:8003"); err == nil {
			conn.Close()
			t.Error("they do")
		}
	})
	t.Run("without the table all is as without a mesh", func(t *testing.T) {
		h.t = t
		if err := (capture.Table{NetNS: int(h.h1.NS)}).Remove(); err != nil {
			t.Fatal(err)
		}
		if got := h.calls(buyerUser, "10.9.1.1:8003", "till"); got != "open" {
			t.Errorf("%q", got)
		}
		if got := h.calls(buyerUser, "10.9.1.2:9080", "shop"); got != "refused" {
			t.Errorf("%q", got)
		}
	})
}
