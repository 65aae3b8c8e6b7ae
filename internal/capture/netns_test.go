package capture

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"go.uber.org/goleak"
)

// callAs has the test's program call an address as a user instead of running tests: "UID GID NETWORK ADDRESS".
const callAs = "WATTLE_TEST_CALL"

func TestMain(m *testing.M) {
	if what := os.Getenv(callAs); what != "" {
		call(what)
		return
	}
	goleak.VerifyTestMain(m)
}

// call connects and prints the first line that comes, or why there is none.
func call(what string) {
	var uid, gid int
	var network, address string
	if _, err := fmt.Sscan(what, &uid, &gid, &network, &address); err != nil {
		fmt.Println(err)
		return
	}
	_, _ = io.ReadAll(os.Stdin) // until the caller has moved this process
	for _, err := range []error{syscall.Setgroups(nil), syscall.Setgid(gid), syscall.Setuid(uid)} {
		if err != nil {
			fmt.Println(err)
			return
		}
	}
	conn, err := net.DialTimeout(network, address, 5*time.Second)
	if err == nil {
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		_, err = fmt.Fprintln(conn, "hello")
	}
	text := make([]byte, 100)
	n := 0
	if err == nil {
		n, err = conn.Read(text)
	}
	if err != nil {
		fmt.Println("error:", err)
		return
	}
	fmt.Println(strings.TrimSpace(string(text[:n])))
}

// space is a network namespace of the test's own.
type space struct {
	t  *testing.T
	ns netns.NsHandle
}

func newSpace(t *testing.T) *space {
	t.Helper()
	s := &space{t: t}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		var err error
		s.ns, err = netns.New()
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatalf("%v; these tests make network namespaces, which needs root", err)
	}
	t.Cleanup(func() { s.ns.Close() })
	s.in(func() error { return up("lo") })
	return s
}

// in runs f on a thread of the namespace.
func (s *space) in(f func() error) {
	s.t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := netns.Set(s.ns)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		s.t.Fatal(err)
	}
}

func up(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

// join connects two namespaces; the addresses are in CIDR notation.
func join(t *testing.T, a, b *space, atA, atB []string) {
	t.Helper()
	a.in(func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "up0"}, PeerName: "up0", PeerNamespace: netlink.NsFd(b.ns)})
	})
	for _, x := range []struct {
		s   *space
		all []string
	}{{a, atA}, {b, atB}} {
		x.s.in(func() error {
			link, err := netlink.LinkByName("up0")
			if err != nil {
				return err
			}
			for _, at := range x.all {
				addr, err := netlink.ParseAddr(at)
				if err != nil {
					return err
				}
				addr.Flags = syscall.IFA_F_NODAD
				if err := netlink.AddrAdd(link, addr); err != nil {
					return err
				}
			}
			return netlink.LinkSetUp(link)
		})
	}
}

// serve answers every TCP connection and datagram at an address with a name.
func (s *space) serve(name string, addresses ...string) {
	s.t.Helper()
	for _, at := range addresses {
		s.in(func() error {
			l, err := net.Listen("tcp", at)
			if err != nil {
				return err
			}
			p, err := net.ListenPacket("udp", at)
			if err != nil {
				return err
			}
			ended := make(chan struct{}, 2)
			go func() {
				defer func() { ended <- struct{}{} }()
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					fmt.Fprintln(c, name)
					c.Close()
				}
			}()
			go func() {
				defer func() { ended <- struct{}{} }()
				for {
					_, from, err := p.ReadFrom(make([]byte, 100))
					if err != nil {
						return
					}
					_, _ = p.WriteTo([]byte(name), from)
				}
			}()
			s.t.Cleanup(func() { l.Close(); p.Close(); <-ended; <-ended })
			return nil
		})
	}
}

// who is a process: of a user and group, in a control group.
type who struct {
	uid, gid int
	group    string // folder
}

// calls has a process connect, and returns who answers: a name, "refused", or else why nobody does.
func (s *space) calls(w who, network, address string) string {
	s.t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d %d %s %s", callAs, w.uid, w.gid, network, address))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	in, err := cmd.StdinPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	s.in(cmd.Start) // a process is of the namespace of the thread that starts it
	if w.group != "" {
		if err := os.WriteFile(filepath.Join(w.group, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0o644); err != nil {
			s.t.Fatal(err)
		}
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		s.t.Fatalf("%v: %s", err, out.String())
	}
	text := strings.TrimSpace(out.String())
	if strings.Contains(text, "connection refused") || strings.Contains(text, "connection reset") || strings.Contains(text, "not permitted") {
		return "refused"
	}
	return text
}

func (s *space) nft(args ...string) string {
	s.t.Helper()
	var out []byte
	s.in(func() (err error) {
		out, err = exec.Command("nft", args...).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s; nft is in Debian's package nftables", err, out)
		}
		return err
	})
	return string(out)
}

func (s *space) table() Table { return Table{NetNS: int(s.ns)} }

func (s *space) replace(r Rules) {
	s.t.Helper()
	if err := s.table().Replace(r); err != nil {
		s.t.Fatal(err)
	}
}

func (s *space) has(r Rules) bool {
	s.t.Helper()
	ok, err := s.table().Has(r)
	if err != nil {
		s.t.Fatal(err)
	}
	return ok
}
