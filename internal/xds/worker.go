package xds

import (
	"math"
	"runtime"
)

// maxUnacked bounds the unacknowledged bytes of a stream to which a worker still sends: gRPC takes 64 KiB of a
// stream without blocking. A slower stream is sent to by a goroutine of its own.
const maxUnacked = 48 << 10

// jobs are what the workers do. There are as many of them as processors while there is work, and none when
// there is not. The server's lock guards it.
type jobs struct {
	streams  []*stream
	head     int
	notices  []func()
	noticing bool // a worker is calling one
	workers  int
}

// queue has a worker send what a stream needs. The caller holds the lock.
func (s *Server) queue(st *stream) {
	if st.queued || st.broken {
		return
	}
	st.queued = true
	s.jobs.streams = append(s.jobs.streams, st)
	s.hire()
}

// notify has a worker call f without the lock, after and never beside those given before. The caller holds the lock.
func (s *Server) notify(f func()) {
	s.jobs.notices = append(s.jobs.notices, f)
	s.hire()
}

func (s *Server) hire() {
	if s.jobs.workers < runtime.GOMAXPROCS(0) {
		s.jobs.workers++
		go s.work()
	}
}

// work does jobs until there are none.
func (s *Server) work() {
	s.mu.Lock()
	defer s.mu.Unlock()
	j := &s.jobs
	for {
		switch {
		case len(j.notices) > 0 && !j.noticing:
			f := j.notices[0]
			j.notices = j.notices[1:]
			j.noticing = true
			s.mu.Unlock()
			f()
			s.mu.Lock()
			j.noticing = false
		case j.head < len(j.streams):
			st := j.streams[j.head]
			j.streams[j.head] = nil
			j.head++
			st.queued = false
			s.attend(st)
		default:
			j.streams, j.head = j.streams[:0], 0
			j.workers--
			return
		}
	}
}

// attend sends to a stream from a worker, or has it sent by a goroutine that may block.
func (s *Server) attend(st *stream) {
	if s.flush(st, maxUnacked) {
		return
	}
	go func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.flush(st, math.MaxInt)
	}()
}

// flush sends all that a stream needs and may be sent now, and reports whether it could: not if there is something to
// send and limit bytes are unacknowledged. The caller holds the lock, which is released while a message is being sent.
func (s *Server) flush(st *stream, limit int) bool {
	if st.sending || st.broken {
		return true // whoever sends looks again before it stops
	}
	for !st.broken {
		if st.unacked >= limit {
			return false
		}
		var m any
		if st.kicked != "" {
			m, st.broken = farewell(st.kicked), true
		} else if next := st.next(); next != nil {
			s.metrics.sent(next)
			m = next
		} else {
			break
		}
		st.sending = true
		s.mu.Unlock()
		err := st.send(m)
		s.mu.Lock()
		st.sending = false
		if err != nil {
			st.broken = true // the reader sees it too, and says why
		}
	}
	st.closeRounds()
	return true
}
