package process

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// How an Envoy goes that is not wanted any more. Its callers are told at the same time as it is, and leave when they
// have no request under way.
const (
	drainTime = 20 * time.Second // for connections of listeners that were removed, and for callers to leave
	closeTime = 5 * time.Second  // from no new connections at all to the end
	lookAgain = 50 * time.Millisecond
)

// DepartureLimit is how long after its plan an Envoy that left it is told to end at the latest.
const DepartureLimit = drainTime + closeTime

// departure is the time between an Envoy's being wanted and its end.
type departure struct {
	admin  *http.Client
	began  time.Time
	closed bool // it takes no connections any more, for good
}

func newDeparture(socket string) *departure {
	return &departure{
		began: time.Now(),
		admin: &http.Client{Timeout: time.Second, Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", socket)
			},
		}},
	}
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
	if took > drainTime && !d.closed {
		d.closed = true
		_, _ = d.ask(ctx, http.MethodPost, "/drain_listeners") // an Envoy that does not hear is ended all the same
	}
	n, err := d.connections(ctx)
	return took > DepartureLimit || err == nil && n == 0
}

// connections counts those that others have to the Envoy's listeners.
func (d *departure) connections(ctx context.Context) (n int, err error) {
	text, err := d.ask(ctx, http.MethodGet, "/stats?format=json&filter=%5Elistener%5C..*downstream_cx_active$")
	if err != nil {
		return 0, err
	}
	var answer struct {
		Stats []struct {
			Name  string `json:"name"`
			Value int    `json:"value"`
		} `json:"stats"`
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return 0, err
	}
	for _, s := range answer.Stats {
		if !strings.HasPrefix(s.Name, "listener.admin.") {
			n += s.Value
		}
	}
	return n, nil
}

func (d *departure) ask(ctx context.Context, method, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://envoy"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := d.admin.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", path, resp.Status)
	}
	return text, err
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
