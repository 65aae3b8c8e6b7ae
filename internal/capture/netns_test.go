package capture

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	netspace "github.com/wattle-mesh/wattle/test/space"
)

// callAs has the test's program call an address as a user instead of running tests: "UID GID NETWORK ADDRESS". The
// network "tcp@4" is TCP with that priority.
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
	d := net.Dialer{Timeout: 5 * time.Second}
	if name, priority, ok := strings.Cut(network, "@"); ok {
		n, err := strconv.Atoi(priority)
		if err != nil {
			fmt.Println(err)
			return
		}
		network = name
		d.Control = func(_, _ string, c syscall.RawConn) (err error) {
			return errors.Join(c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PRIORITY, n) }), err)
		}
	}
	conn, err := d.Dial(network, address)
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
type space struct{ *netspace.Space }

func newSpace(t *testing.T) *space {
	t.Helper()
	return &space{netspace.New(t)}
}

// serve answers every TCP connection and datagram at an address with a name.
func (s *space) serve(name string, addresses ...string) {
	s.T.Helper()
	for _, at := range addresses {
		s.In(func() error {
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
			s.T.Cleanup(func() { l.Close(); p.Close(); <-ended; <-ended })
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
	s.T.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d %d %s %s", callAs, w.uid, w.gid, network, address))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	in, err := cmd.StdinPipe()
	if err != nil {
		s.T.Fatal(err)
	}
	s.In(cmd.Start) // a process is of the namespace of the thread that starts it
	if w.group != "" {
		if err := os.WriteFile(filepath.Join(w.group, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0o644); err != nil {
			s.T.Fatal(err)
		}
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		s.T.Fatalf("%v: %s", err, out.String())
	}
	text := strings.TrimSpace(out.String())
	if strings.Contains(text, "connection refused") || strings.Contains(text, "connection reset") || strings.Contains(text, "not permitted") {
		return "refused"
	}
	return text
}

func (s *space) nft(args ...string) string {
	s.T.Helper()
	var out []byte
	s.In(func() (err error) {
		out, err = exec.Command("nft", args...).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s; nft is in Debian's package nftables", err, out)
		}
		return err
	})
	return string(out)
}

func (s *space) table() Table { return Table{NetNS: int(s.NS)} }

func (s *space) replace(r Rules) {
	s.T.Helper()
	if err := s.table().Replace(r); err != nil {
		s.T.Fatal(err)
	}
}

func (s *space) has(r Rules) bool {
	s.T.Helper()
	ok, err := s.table().Has(r)
	if err != nil {
		s.T.Fatal(err)
	}
	return ok
}
