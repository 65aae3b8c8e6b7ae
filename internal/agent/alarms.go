package agent

import (
	"log/slog"
	"maps"
	"slices"
	"sync"

	"github.com/wattle-mesh/wattle/internal/api/apipb"
)

// alarms are what a person has to mend on this host, by names that api.FactName takes. They are logged when they are raised and when they end, reported
// to the server, and shown by the agent's socket. Safe for concurrent use.
type alarms struct {
	log  *slog.Logger
	held value[[]*apipb.Alarm] // sorted by name

	mu  sync.Mutex
	now map[string]string
}

// raise says that something is wrong, or what is wrong now. Only the first is logged.
func (a *alarms) raise(name, text string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	was, raised := a.now[name]
	if was == text {
		return
	}
	if !raised {
		a.log.Error("ALARM: "+text, "alarm", name)
	}
	if a.now == nil {
		a.now = map[string]string{}
	}
	a.now[name] = text
	a.publish()
}

// end says that it is well again.
func (a *alarms) end(name string) {
	if a.drop(name) {
		a.log.Info("the alarm is over", "alarm", name)
	}
}

// drop takes an alarm back, and reports whether it was raised.
func (a *alarms) drop(name string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, raised := a.now[name]; !raised {
		return false
	}
	delete(a.now, name)
	a.publish()
	return true
}

func (a *alarms) publish() {
	var out []*apipb.Alarm
	for _, name := range slices.Sorted(maps.Keys(a.now)) {
		out = append(out, &apipb.Alarm{Name: name, Text: a.now[name]})
	}
	a.held.Set(out)
}
