package xds

import (
	"math"
	"time"
)

// maxRounds bounds the rounds that one stream can keep open; a stream that is further behind lets the oldest go.
const maxRounds = 64

// round is one generation on its way to the streams that it touches. The server's lock guards it.
type round struct {
	gen     uint64
	began   time.Time
	waiting int // streams that have not answered
	proxies int // streams that were sent something and have answered
	nacked  int // of these
}

// joinRound has r wait for the stream.
func (st *stream) joinRound(r *round) {
	if len(st.rounds) == maxRounds {
		st.srv.leave(st.rounds[0])
		st.rounds = append(st.rounds[:0], st.rounds[1:]...)
	}
	st.rounds = append(st.rounds, r)
	r.waiting++
}

// closeRounds ends the stream's part in each round that it has answered.
func (st *stream) closeRounds() {
	if len(st.rounds) == 0 {
		return
	}
	answered := uint64(math.MaxUint64)
	if st.blocked {
		answered = 0
	}
	refused := uint64(0)
	for i := range st.subs {
		b := &st.subs[i]
		if b.inflight {
			answered = min(answered, b.acked, b.last.gen-1)
		}
		if b.nack != nil {
			refused = max(refused, b.nack.Generation)
		}
	}
	n := 0
	for _, r := range st.rounds {
		if r.gen > answered {
			break
		}
		n++
		if st.reached >= r.gen {
			r.proxies++
			if refused >= r.gen {
				r.nacked++
			}
		}
		st.srv.leave(r)
	}
	st.rounds = append(st.rounds[:0], st.rounds[n:]...)
	if len(st.rounds) == 0 {
		st.rounds = nil
	}
}

// leaveRounds ends the part of a stream that ends in all rounds.
func (st *stream) leaveRounds() {
	for _, r := range st.rounds {
		st.srv.leave(r)
	}
	st.rounds = nil
}

// leave takes one stream off what r waits for, and reports r when that was the last.
func (s *Server) leave(r *round) {
	if r.waiting--; r.waiting > 0 {
		return
	}
	took := time.Since(r.began)
	if r.proxies > 0 {
		s.metrics.converged.Observe(took.Seconds())
	}
	if f := s.o.OnConverged; f != nil {
		s.notify(func() { f(r.gen, r.proxies, took, r.nacked) })
	}
}
