package main

import (
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

func TestWhereSomethingListensAnEndpointLives(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	here := netip.MustParseAddrPort(l.Addr().String())
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nowhere := netip.MustParseAddrPort(gone.Addr().String())
	gone.Close()
	p := newProber(t.Context())
	if !p.alive(here) || !p.alive(nowhere) {
		t.Error("a place that was not looked at yet counts as dead")
	}
	limit := time.After(10 * time.Second)
	for p.alive(nowhere) {
		select {
		case <-time.After(time.Millisecond):
		case <-limit:
			t.Fatal("a port that refuses counts as alive")
		}
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if !p.alive(here) {
		t.Error("a port that listens counts as dead")
	}
}

func TestAProberRemembersWhatIsAskedForOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProber(t.Context())
		place := func(i int) netip.AddrPort {
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, byte(i >> 8), byte(i)}), 1)
		}
		for range probesAtOnce { // nothing is looked at
			p.slots <- struct{}{}
		}
		for i := range maxProbed {
			p.alive(place(i))
		}
		if !p.alive(place(maxProbed)) {
			t.Error("a place that there is no room for counts as dead")
		}
		time.Sleep(probeForget + time.Second)
		if !p.alive(place(maxProbed)) || len(p.known) != 1 {
			t.Errorf("%d places are known after nobody asked for a minute", len(p.known))
		}
	})
}
