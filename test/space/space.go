// Package space makes network namespaces for tests: hosts of their own, with links between them, that end with the test. It
// needs root.
package space

import (
	"runtime"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// Space is a network namespace.
type Space struct {
	T  testing.TB
	NS netns.NsHandle
}

// New makes a namespace whose loopback is up. It fails the test if it cannot.
func New(t testing.TB) *Space {
	t.Helper()
	s := &Space{T: t}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		var err error
		s.NS, err = netns.New()
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatalf("%v; these tests make network namespaces, which needs root", err)
	}
	t.Cleanup(func() { s.NS.Close() })
	s.In(func() error {
		link, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(link)
	})
	return s
}

// In runs f on a thread of the namespace, and fails the test if it fails. A process that f starts is of the namespace.
func (s *Space) In(f func() error) {
	s.T.Helper()
	if err := s.Try(f); err != nil {
		s.T.Fatal(err)
	}
}

// Try runs f on a thread of the namespace.
func (s *Space) Try(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := netns.Set(s.NS)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// Join connects two namespaces; the addresses are in CIDR notation.
func Join(a, b *Space, atA, atB []string) {
	a.T.Helper()
	a.In(func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "up0"}, PeerName: "up0", PeerNamespace: netlink.NsFd(b.NS)})
	})
	for _, x := range []struct {
		s   *Space
		all []string
	}{{a, atA}, {b, atB}} {
		x.s.In(func() error {
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
