package process

import (
	"context"
	"encoding/json"
	"os"
	"time"

	"github.com/wattle-mesh/wattle/internal/admin"
)

// How an Envoy goes that is not wanted any more. Its callers are told at the same time as it is, and leave when they
// have no request under way.
const (
	drainTime = 20 * time.Second // unless Options say otherwise
	closeTime = 5 * time.Second  // from no new connections at all to the end
	lookAgain = 50 * time.Millisecond
)

// DepartureLimit is how long after its plan an Envoy that left it is told to end at the latest, if Options say nothing.
const DepartureLimit = drainTime + closeTime

// departure is the time between an Envoy's being wanted and its end.
type departure struct {
	envoy  *admin.Client
	limit  time.Duration // for connections of listeners that were removed, and for callers to leave
	began  time.Time
	closed bool // it takes no connections any more, for good
}

func newDeparture(socket string, limit time.Duration) *departure {
	return &departure{envoy: admin.New(socket), limit: limit, began: time.Now()}
}

// tick says when to look whether it is over. A nil departure has no such time.
func (d *departure) tick() <-chan time.Time {
	if d == nil {
		return nil
	}
	return time.After(lookAgain)
}

// over reports whether the Envoy may be ended: nobody is connected, or the time is up.
func (d *departure) over(ctx context.Context) bool {
	took := time.Since(d.began)
	if took > d.limit && !d.closed {
		d.closed = true
		_ = d.envoy.Close(ctx) // an Envoy that does not hear is ended all the same
	}
	n, err := d.envoy.Connections(ctx)
	return took > d.limit+closeTime || err == nil && n == 0
}

// admin returns where an Envoy's own interface listens, as its bootstrap says; empty if it does not say.
func (a *Adapter) admin(name string) string {
	var boot struct {
		Admin struct {
			Address struct {
				Pipe struct {
					Path string `json:"path"`
				} `json:"pipe"`
			} `json:"address"`
		} `json:"admin"`
	}
	text, err := os.ReadFile(a.bootstrap(name))
	if err == nil {
		err = json.Unmarshal(text, &boot)
	}
	if err != nil {
		a.o.Log.Error("read the bootstrap of an Envoy that is to go", "proxy", name, "error", err)
	}
	return boot.Admin.Address.Pipe.Path
}
