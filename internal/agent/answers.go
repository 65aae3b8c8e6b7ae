package agent

import (
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/wattle-mesh/wattle/internal/xds"
	"github.com/wattle-mesh/wattle/translator"
)

const (
	// meetLimit is how long what the server sends stays unanswered while the Envoy that it is for has yet to start.
	meetLimit = 15 * time.Second
	// meetPoll is how often a local server is asked meanwhile whether its Envoy has taken everything.
	meetPoll = 10 * time.Millisecond
)

// serving says whether the host's Envoy does what it was told.
type serving uint8

const (
	servingUnknown serving = iota // it has yet to start, or an Envoy that runs to find its agent
	servingYes
	servingNo // it has not come for long
)

// answers passes what Envoy says of its configuration on to the server: an acknowledgement only when Envoy has given
// one, a refusal in Envoy's words. While no Envoy runs, having stored a response is enough; but the first Envoy is
// waited for, so that a proxy that starts does not count as ready before it is.
type answers struct {
	log   *slog.Logger
	proxy string
	local *xds.Server
	came  chan struct{} // something was put into queue

	pending  map[uint64]delivery // by generation of local: Envoy has not answered
	stored   []delivery          // no Envoy was there to answer
	refused  map[translator.Key]refusal
	expected bool // an Envoy is meant to run
	met      bool // it has taken a whole state, or none is expected, or it has not come for long
	took     bool // it has taken a whole state
	since    time.Time
	ticker   <-chan time.Time

	mu    sync.Mutex
	queue []verdict
}

// delivery is a response of the server with what is wrong with it apart from Envoy's answer.
type delivery struct {
	resp *xds.Response
	err  error
}

// refusal is what Envoy said of a resource in this version. The server sends it again on a new stream, Envoy does
// not get it again: its answer stands.
type refusal struct {
	version, words string
}

// verdict says that those streams of a local server that a generation touched have answered it.
type verdict struct {
	gen             uint64
	proxies, nacked int
}

func newAnswers(log *slog.Logger, proxy string) *answers {
	return &answers{
		log: log, proxy: proxy, came: make(chan struct{}, 1),
		pending: map[uint64]delivery{}, refused: map[translator.Key]refusal{}, expected: true, since: time.Now(),
	}
}

// converged is the local server's OnConverged.
func (a *answers) converged(gen uint64, proxies int, _ time.Duration, nacked int) {
	a.mu.Lock()
	a.queue = append(a.queue, verdict{gen, proxies, nacked})
	a.mu.Unlock()
	select {
	case a.came <- struct{}{}:
	default:
	}
}

// unchanged answers a response that changes nothing for Envoy. err is what is wrong with it, apart from what Envoy
// said of it before.
func (a *answers) unchanged(resp *xds.Response, err error) {
	resp.Answer(errors.Join(err, a.before(resp)))
}

// await leaves the answer of a response to Envoy, which gets it with the generation gen.
func (a *answers) await(gen uint64, resp *xds.Response, err error) {
	a.pending[gen] = delivery{resp, errors.Join(err, a.before(resp))}
}

// before returns what Envoy said of the same resources when it got them.
func (a *answers) before(resp *xds.Response) error {
	var errs []error
	for _, name := range resp.Removed {
		delete(a.refused, translator.Key{Type: resp.Type, Name: name})
	}
	for _, r := range resp.Resources {
		switch f, ok := a.refused[r.Key]; {
		case ok && f.version == r.Version:
			errs = append(errs, errors.New(f.words))
		case ok:
			delete(a.refused, r.Key)
		}
	}
	return errors.Join(errs...)
}

// pass gives the server the answers that have come.
func (a *answers) pass() {
	a.mu.Lock()
	queue := a.queue
	a.queue = nil
	a.mu.Unlock()
	for _, v := range queue {
		d, ok := a.pending[v.gen]
		delete(a.pending, v.gen)
		switch {
		case v.nacked > 0:
			a.answer(d, a.nacks(v.gen))
		case !ok:
		case v.proxies == 0 && !a.met:
			a.stored = append(a.stored, d)
		default:
			a.answer(d, nil)
		}
	}
}

// answer gives the server one answer. A delivery without a response is of what this agent made itself.
func (a *answers) answer(d delivery, nacks map[string]*xds.Nack) {
	if d.resp == nil {
		return
	}
	n := nacks[d.resp.Type.String()]
	if n == nil {
		d.resp.Answer(d.err)
		return
	}
	for _, r := range d.resp.Resources {
		if slices.ContainsFunc(n.Resources, func(x xds.NackResource) bool { return x.Name == r.Name }) {
			a.refused[r.Key] = refusal{r.Version, n.Message}
		}
	}
	d.resp.Answer(errors.Join(d.err, errors.New(n.Message)))
}

// nacks logs and returns what Envoy refuses since generation gen, by the name of the type.
func (a *answers) nacks(gen uint64) map[string]*xds.Nack {
	out := map[string]*xds.Nack{}
	for _, p := range a.local.Proxies() {
		for _, t := range p.Types {
			if t.Nack != nil && t.Nack.Generation >= gen {
				out[t.Type] = t.Nack
				a.log.Error("envoy refused what it was sent", "proxy", a.proxy, "type", t.Type, "error", t.Nack.Message)
			}
		}
	}
	return out
}

// expect says whether an Envoy is meant to run.
func (a *answers) expect(envoy bool) {
	if envoy == a.expected {
		return
	}
	a.expected, a.met, a.took, a.since = envoy, !envoy, false, time.Now()
	if !envoy {
		a.release(nil)
	}
}

// serving says whether the proxy does what it was told.
func (a *answers) serving() serving {
	switch {
	case a.took:
		return servingYes
	case a.expected && a.met:
		return servingNo
	}
	return servingUnknown
}

// poll returns a channel on which to look for the first Envoy, nil while there is no need.
func (a *answers) poll() <-chan time.Time {
	if a.took || !a.expected {
		return nil
	}
	if a.ticker == nil {
		a.ticker = time.After(meetPoll)
	}
	return a.ticker
}

// look answers what was stored if the first Envoy has taken it, or has not come for long.
func (a *answers) look() {
	a.ticker = nil
	switch {
	case a.settled():
		a.met, a.took = true, true
		a.release(a.nacks(0))
	case !a.met && time.Since(a.since) > meetLimit:
		a.log.Warn("no Envoy has come for its configuration", "proxy", a.proxy)
		a.met = true
		a.release(nil)
	}
}

// settled reports whether an Envoy is there and has answered everything, up to its listeners: it asks for them last.
func (a *answers) settled() bool {
	all := a.local.Proxies() // the one
	if len(all) == 0 || !all[0].Connected {
		return false
	}
	listens := false
	for _, t := range all[0].Types {
		if t.Nack == nil && t.Acked != t.Sent {
			return false
		}
		listens = listens || t.Type == translator.Listener.String()
	}
	return listens
}

func (a *answers) release(nacks map[string]*xds.Nack) {
	for _, d := range a.stored {
		a.answer(d, nacks)
	}
	a.stored = nil
}
