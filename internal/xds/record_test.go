package xds

import (
	"fmt"
	"slices"
	"sync"

	"google.golang.org/grpc"
)

// recorder notes what passes between a Server and its clients, in the Server's order.
type recorder struct {
	mu    sync.Mutex
	lines []string
}

func (r *recorder) note(line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, line)
}

// since returns what was noted after the first n lines.
func (r *recorder) since(n int) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.lines[n:])
}

func (r *recorder) count() int { return len(r.since(0)) }

func (r *recorder) intercept(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	return next(srv, &recordedStream{s, r})
}

type recordedStream struct {
	grpc.ServerStream
	r *recorder
}

// SendMsg notes "cluster 3 a b -c": a response of generation 3 with a and b, in which c is removed.
func (s *recordedStream) SendMsg(m any) error {
	if m, ok := m.(*message); ok {
		line := fmt.Sprintf("%s %d", m.typ, m.gen)
		for _, res := range m.resources {
			line += " " + res.Name
		}
		for _, name := range m.removed {
			line += " -" + name
		}
		s.r.note(line)
	}
	return s.ServerStream.SendMsg(m)
}

// RecvMsg notes answers as "ack cluster 3" and "nack cluster 3".
func (s *recordedStream) RecvMsg(m any) error {
	err := s.ServerStream.RecvMsg(m)
	if r, ok := m.(*request); ok && err == nil && r.answers {
		word := "ack"
		if r.refused {
			word = "nack"
		}
		s.r.note(fmt.Sprintf("%s %s %d", word, r.typ, r.nonce))
	}
	return err
}
