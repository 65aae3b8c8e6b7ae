package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/wattle-mesh/wattle/adapters"
	"github.com/wattle-mesh/wattle/internal/admin"
	"github.com/wattle-mesh/wattle/internal/xds"
	"github.com/wattle-mesh/wattle/translator"
)

const (
	pulseEvery = 2 * time.Second
	// hangLimit is how long an Envoy on trial may leave its admin interface unanswered, and startLimit, how long it may have
	// all that it asked for and yet not serve.
	hangLimit  = 8 * time.Second
	startLimit = 20 * time.Second
	wordsLimit = 2 * time.Second // for Envoy's last words
	silence    = 30 * time.Second
)

// pulse is how an Envoy answers its admin interface.
type pulse uint8

const (
	absent   pulse = iota // nobody is there: it starts, or its successor failed, or it has gone
	live                  // it serves
	starting              // it answers, and does not serve yet
	stuck                 // it lets who asks wait
)

// guard watches over the Envoy of a proxy while what it is served is on trial.
type guard struct {
	trial  trial
	busy   *atomic.Bool // something is on trial
	pulses chan pulse
	ill    time.Time // since when the last pulses were all starting, or all stuck; zero: they were not
	last   pulse
	said   time.Time // that there is nothing to go back to
}

func newGuard() guard { return guard{busy: new(atomic.Bool), pulses: make(chan pulse)} }

// watch asks the Envoy how it is, now and then, until ctx is done.
func (g *guard) watch(ctx context.Context, client *admin.Client) error {
	for {
		select {
		case <-time.After(pulseEvery):
		case <-ctx.Done():
			return nil
		}
		if !g.busy.Load() {
			continue
		}
		select {
		case g.pulses <- take(ctx, client):
		case <-ctx.Done():
			return nil
		}
	}
}

// take asks an Envoy how it is.
func take(ctx context.Context, client *admin.Client) pulse {
	server, err := client.Server(ctx)
	var slow net.Error
	switch {
	case errors.As(err, &slow) && slow.Timeout():
		return stuck
	case err != nil:
		return absent
	case server.State == admin.Live:
		return live
	}
	return starting
}

// crashed takes in that the Envoy has ended by itself.
func (r *relay) crashed(ctx context.Context, c adapters.Crash) {
	r.o.Log.Warn("envoy has ended by itself", "proxy", r.o.ID)
	r.guard.busy.Store(true)
	if r.guard.trial.crashed(time.Now()) {
		r.goBack(ctx, fmt.Sprintf("Envoy ended %d times within %s", crashLimit, probation), c.Last)
	}
}

// pulse takes in how the Envoy is.
func (r *relay) pulse(ctx context.Context, p pulse) {
	g, now := &r.guard, time.Now()
	if p != g.last || p == live || p == absent {
		g.ill = now
	}
	g.last = p
	switch p {
	case live:
		if !r.answers.settled() {
			return
		}
		served := r.table.state()
		if g.trial.candidate == nil && !served.equal(g.trial.proven) {
			r.o.Log.Debug("envoy is well with what it is served, which is on trial", "proxy", r.o.ID)
		}
		if g.trial.well(now, served) {
			if err := r.o.Proven.Save(r.kept.name, xds.Pack(r.kept.id, r.horizon.stamp, sorted(served))); err != nil {
				r.o.Log.Error("a proven state cannot be kept", "proxy", r.o.ID, "error", err)
			}
		}
		g.busy.Store(g.trial.candidate != nil || !served.equal(g.trial.proven))
	case stuck:
		g.trial.unwell(now)
		if now.Sub(g.ill) >= hangLimit {
			g.ill = now
			r.hangs(ctx, fmt.Sprintf("Envoy answered nothing for %s", hangLimit))
		}
	case starting:
		g.trial.unwell(now)
		select {
		case <-r.ready:
		default:
			g.ill = now // it is the agent that makes it wait
		}
		if now.Sub(g.ill) >= startLimit {
			g.ill = now
			r.hangs(ctx, fmt.Sprintf("Envoy did not begin to serve within %s", startLimit))
		}
	}
}

// hangs goes back and ends the Envoy, for another to start on that.
func (r *relay) hangs(ctx context.Context, why string) {
	if !r.goBack(ctx, why, func(context.Context) []string { return nil }) || r.o.Kill == nil {
		return
	}
	if err := r.o.Kill(ctx); err != nil {
		r.o.Log.Error("an Envoy that hangs cannot be ended", "proxy", r.o.ID, "error", err)
	}
}

// goBack serves the state before, and puts what differs in quarantine until the server sends something else. It reports whether
// there was such a state.
func (r *relay) goBack(ctx context.Context, why string, last func(context.Context) []string) bool {
	served := r.table.state()
	good := r.guard.trial.back(served)
	if good == nil {
		if now := time.Now(); now.Sub(r.guard.said) > silence {
			r.guard.said = now
			r.o.Log.Error("the proxy is not well, and there is no other state to go back to", "proxy", r.o.ID, "why", why)
		}
		return false
	}
	to := pinsTo(good, r.table.received)
	changes, err := r.table.pin(to)
	if err != nil {
		r.o.Log.Error("not all of the state before can be used", "proxy", r.o.ID, "error", err)
	}
	r.local.Apply(changes)
	ctx, cancel := context.WithTimeout(ctx, wordsLimit)
	defer cancel()
	words := xds.Quarantined + why + "; the state before is served"
	if lines := last(ctx); len(lines) > 0 {
		words += "; its last words: " + strings.Join(lines, " | ")
	}
	r.o.Log.Error("what the server sent is in quarantine until it sends something else", "proxy", r.o.ID, "resources", len(to), "error", words)
	if err := errors.Join(r.o.Proven.Save(r.kept.name, xds.Pack(r.kept.id, r.horizon.stamp, sorted(good))), r.o.Barred.Save(r.kept.name, barredOf(r.kept.id, words, to))); err != nil {
		r.o.Log.Error("the quarantine cannot be kept: an agent that starts again has to find it out again", "proxy", r.o.ID, "error", err)
	}
	r.answers.bar(to, words)
	return true
}

// lift ends the quarantine, and returns what changes for Envoy.
func (r *relay) lift() (translator.Changes, error) {
	r.o.Log.Info("the server has sent something else than what is in quarantine, which ends", "proxy", r.o.ID)
	changes, err := r.table.pin(nil)
	r.answers.bar(nil, "")
	return changes, errors.Join(err, r.o.Barred.Remove(r.kept.name))
}

// barred is a quarantine on disk.
type barred struct {
	Proxy string       `json:"proxy"` // relay.kept.id
	Words string       `json:"words"`
	Pins  []barredName `json:"pins"`
}

type barredName struct {
	Type translator.Type `json:"type"`
	Name string          `json:"name"`
	Bad  string          `json:"bad"`
}

func barredOf(proxy, words string, all pins) []byte {
	b := barred{Proxy: proxy, Words: words}
	for k, p := range all {
		b.Pins = append(b.Pins, barredName{k.Type, k.Name, p.bad})
	}
	text, err := json.Marshal(b)
	if err != nil {
		panic(err) // strings and numbers
	}
	return text
}

// restoreTrial brings back what an earlier agent had found out. What is in quarantine is taken out of known: the server sends it
// again, and is told once more.
func (r *relay) restoreTrial(known map[translator.Type]map[string]string) {
	var faults []error
	_, wrong := r.o.Proven.Load(r.kept.name, func(data []byte) error {
		p, err := xds.Unpack(data)
		if err == nil && p.ID != r.kept.id {
			err = fmt.Errorf("it is that of proxy %q", p.ID)
		}
		if err != nil {
			return err
		}
		r.guard.trial.proven = snapshot{}
		for _, x := range p.Resources {
			r.guard.trial.proven[x.Key] = x
		}
		return nil
	})
	faults = append(faults, wrong...)
	var b barred
	data, wrong := r.o.Barred.Load(r.kept.name, func(data []byte) error { return json.Unmarshal(data, &b) })
	faults = append(faults, wrong...)
	for _, err := range faults {
		r.o.Log.Error("what was proven or in quarantine is not known any more", "proxy", r.o.ID, "error", err)
	}
	if data == nil || b.Proxy != r.kept.id || r.guard.trial.proven == nil {
		return
	}
	r.table.pins = pins{}
	for _, n := range b.Pins {
		k := translator.Key{Type: n.Type, Name: n.Name}
		r.table.pins[k] = pin{r.guard.trial.proven[k], n.Bad}
		delete(known[n.Type], n.Name)
	}
	r.answers.barred = map[translator.Key]refusal{}
	for k, p := range r.table.pins {
		if p.bad != "" {
			r.answers.barred[k] = refusal{p.bad, b.Words}
		}
	}
	r.o.Log.Warn("what the server sent stays in quarantine until it sends something else", "proxy", r.o.ID, "resources", len(b.Pins), "error", b.Words)
}
