package agent

import (
	"slices"
	"sync"
	"time"

	"github.com/wattle-mesh/wattle/internal/xds"
)

// seats are what the local server knows the Envoys of one proxy as: one that takes over from another is served beside it
// while that drains. Safe for concurrent use.
type seats struct {
	local *xds.Server
	ids   []string

	mu    sync.Mutex
	taken map[string]time.Time
}

func newSeats(proxy string) *seats {
	return &seats{ids: []string{proxy, proxy + "'"}, taken: map[string]time.Time{}}
}

// take gives an Envoy that comes a seat: one on which nobody sits, else the one that was taken longest ago.
func (s *seats) take() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	connected := map[string]bool{}
	for _, p := range s.local.Proxies() {
		connected[p.ID] = p.Connected
	}
	id := slices.MinFunc(s.ids, func(a, b string) int {
		if connected[a] != connected[b] {
			if connected[a] {
				return 1
			}
			return -1
		}
		return s.taken[a].Compare(s.taken[b])
	})
	s.taken[id] = time.Now()
	return id
}

// newest returns the Envoy that came last of those that are there. None is there if it is not connected.
func (s *seats) newest() xds.ProxyStatus {
	var out xds.ProxyStatus
	for _, p := range s.local.Proxies() {
		if p.Connected && p.Since.After(out.Since) {
			out = p
		}
	}
	return out
}

// retry has what the Envoys refuse sent once more.
func (s *seats) retry() {
	for _, id := range s.ids {
		s.local.Retry(id)
	}
}
