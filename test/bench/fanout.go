package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"time"
)

// side is a server with its clients.
type side struct {
	server, clients *child
	memory          int64  // of the server for each client
	message         []byte // of the broadcaster: what it sends, with the marker of change 0
	first           *traffic
}

// pause lets acknowledgements be read, and the server's gap between two rounds pass, before the next change.
const pause = 60 * time.Millisecond

// open starts a server and connects n clients to it.
func open(ctx context.Context, dir, role string, start any, plan connect) (*side, error) {
	s := &side{}
	var err error
	if s.server, err = spawn(ctx, role, dir); err != nil {
		return nil, err
	}
	if s.clients, err = spawn(ctx, "clients", dir); err != nil {
		return nil, err
	}
	if plan.Addr, err = ask[string](s.server, "start", start); err != nil {
		return nil, err
	}
	before, err := ask[int64](s.server, "memory", nil)
	if err != nil {
		return nil, err
	}
	if s.first, err = ask[*traffic](s.clients, "connect", plan); err != nil {
		return nil, err
	}
	after, err := ask[int64](s.server, "memory", nil)
	s.memory = (after - before) / int64(plan.N)
	return s, err
}

// spawn starts a role in a folder of its own that has the run's certificates.
func spawn(ctx context.Context, role, dir string) (*child, error) {
	own, err := os.MkdirTemp(dir, role)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"ca", "papers"} {
		if err := os.Symlink(filepath.Join(dir, name), filepath.Join(own, name)); err != nil {
			return nil, err
		}
	}
	return start(ctx, role, own)
}

func (s *side) stop() error {
	if err := s.clients.stop(); err != nil {
		return err
	}
	return s.server.stop()
}

// burst is the outcome of some changes, one after the other.
type burst struct {
	last []time.Duration // change to the last of the clients that it is for
	cpu  time.Duration   // of the server for each client and change
}

// counter numbers changes, so that none brings what another brought.
type counter int

// change changes one service n times, each time waiting until every client has it.
func (s *side) change(next *counter, service, receivers, n int) (b burst, err error) {
	before, err := ask[time.Duration](s.server, "cpu", nil)
	if err != nil {
		return b, err
	}
	for range n {
		*next++
		mark := []byte(marker(int(*next)).String())
		if _, err := ask[any](s.clients, "arm", awaited{mark, receivers}); err != nil {
			return b, err
		}
		var began int64
		if s.message != nil {
			message := bytes.ReplaceAll(s.message, []byte(marker(0).String()), mark)
			began, err = ask[int64](s.server, "send", message)
		} else {
			began, err = ask[int64](s.server, "change", edit{service, int(*next)})
		}
		if err != nil {
			return b, err
		}
		got, err := ask[*arrivals](s.clients, "wait", nil)
		if err != nil {
			return b, err
		}
		b.last = append(b.last, time.Duration(got.At[len(got.At)-1]-began))
		<-time.After(pause) // the next change must not meet this one's answers
	}
	after, err := ask[time.Duration](s.server, "cpu", nil)
	b.cpu = (after - before) / time.Duration(n*receivers)
	return b, err
}

// record makes one change and returns the response that it caused, with the marker of change 0.
func (s *side) record(next *counter) ([]byte, error) {
	*next++
	mark := []byte(marker(int(*next)).String())
	if _, err := ask[any](s.clients, "arm", awaited{mark, proxies}); err != nil {
		return nil, err
	}
	if _, err := ask[int64](s.server, "change", edit{hot, int(*next)}); err != nil {
		return nil, err
	}
	got, err := ask[*arrivals](s.clients, "wait", nil)
	if err != nil {
		return nil, err
	}
	return bytes.ReplaceAll(got.Message, mark, []byte(marker(0).String())), nil
}

// series is what several bursts of one kind gave.
type series struct {
	p99, p50 []time.Duration
	cpu      []time.Duration
}

func (s *series) add(b burst) {
	s.p99 = append(s.p99, percentile(b.last, 0.99))
	s.p50 = append(s.p50, percentile(b.last, 0.50))
	s.cpu = append(s.cpu, b.cpu)
}
