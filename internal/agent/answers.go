package agent

import (
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/wattle-mesh/wattle/internal/xds"
	"github.com/wattle-mesh/wattle/translator"
)

const (
	// meetLimit is how long what the server sends stays unanswered while the Envoy that it is for has yet to start.
	meetLimit = 15 * time.Second
	// meetPoll is how often a local server is asked meanwhile whether its Envoy has taken everything.
	meetPoll = 10 * time.Millisecond
	// What Envoy refuses it is offered again: its port may be free by now, its socket's folder may be there. The pause
	// doubles from retryFirst to retryMost; how it went is looked at every retryPoll.
	retryFirst = time.Second
	retryMost  = 30 * time.Second
	retryPoll  = 500 * time.Millisecond
)

// serving says whether an Envoy of the host does what it was told.
type serving uint8

const (
	servingUnknown serving = iota // it has yet to start, or an Envoy that runs to find its agent
	servingYes
	servingNo // it has not come for long
)

// answers passes what Envoy says of its configuration on to the server: an acknowledgement only when Envoy has given
// one, a refusal in Envoy's words. While no Envoy runs, having stored a response is enough; but the first Envoy is
// waited for, so that a proxy that starts does not count as ready before it is. What Envoy says later of what was
// answered before, the server is made to ask for.
type answers struct {
	log     *slog.Logger
	proxy   string
	seats   *seats
	version func(translator.Key) string             // of what Envoy is served; empty: nothing
	again   func(t translator.Type, names []string) // has the server send them again
	came    chan struct{}                           // something was put into queue

	pending  map[uint64]delivery // by generation of local: Envoy has not answered
	stored   []delivery          // no Envoy was there to answer
	refused  map[translator.Key]refusal
	barred   map[translator.Key]refusal // in quarantine
	retry    time.Time                  // when Envoy is offered what it refuses
	pause    *backoff.ExponentialBackOff
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

func (d delivery) has(k translator.Key) bool {
	return slices.ContainsFunc(d.resp.Resources, func(r *translator.Resource) bool { return r.Key == k })
}

// refusal is what Envoy said of a resource in this version, and has not taken back since.
type refusal struct {
	version, words string
}

// verdict says that those streams of a local server that a generation touched have answered it.
type verdict struct {
	gen             uint64
	proxies, nacked int
}

func newAnswers(log *slog.Logger, proxy string, s *seats) *answers {
	a := &answers{
		log: log, proxy: proxy, seats: s, came: make(chan struct{}, 1), pause: backoff.NewExponentialBackOff(),
		pending: map[uint64]delivery{}, refused: map[translator.Key]refusal{}, expected: true, since: time.Now(),
	}
	a.pause.InitialInterval, a.pause.MaxInterval, a.pause.Multiplier = retryFirst, retryMost, 2
	return a
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

// unchanged answers a response that changes nothing for Envoy: what it said before stands. err is what is wrong with
// the response apart from that.
func (a *answers) unchanged(resp *xds.Response, err error) { a.answer(delivery{resp, err}) }

// await leaves the answer of a response to Envoy, which gets it with the generation gen.
func (a *answers) await(gen uint64, resp *xds.Response, err error) {
	for _, name := range resp.Removed {
		delete(a.refused, translator.Key{Type: resp.Type, Name: name})
	}
	a.pending[gen] = delivery{resp, err}
}

// answer gives the server one answer: what Envoy has said of these resources.
func (a *answers) answer(d delivery) {
	errs := []error{d.err}
	for _, r := range d.resp.Resources {
		if q, ok := a.barred[r.Key]; ok && q.version == r.Version {
			errs = append(errs, errors.New(q.words))
			continue
		}
		switch f, ok := a.refused[r.Key]; {
		case ok && f.version == r.Version:
			errs = append(errs, errors.New(f.words))
		case ok:
			delete(a.refused, r.Key)
		}
	}
	d.resp.Answer(errors.Join(errs...))
}

// pass gives the server the answers that have come.
func (a *answers) pass() {
	a.mu.Lock()
	queue := a.queue
	a.queue = nil
	a.mu.Unlock()
	for _, v := range queue {
		d, ok := a.pending[v.gen] // none: this agent made the generation itself, of certificates
		delete(a.pending, v.gen)
		if ok && v.proxies == 0 && !a.met {
			a.stored = append(a.stored, d)
			continue
		}
		var next []delivery
		if ok {
			next = append(next, d)
		}
		if v.proxies > 0 {
			a.judge(next...)
		}
		for _, d := range next {
			a.answer(d)
		}
	}
}

// judge takes in what Envoy says now. The server is made to ask for what it has had another answer to, unless that is
// among those that are about to be answered.
func (a *answers) judge(next ...delivery) {
	for _, t := range a.seats.newest().Types {
		if t.Waiting {
			continue // what it said last may be old
		}
		news := a.compare(t)
		news = slices.DeleteFunc(news, func(k translator.Key) bool {
			return slices.ContainsFunc(next, func(d delivery) bool { return d.has(k) })
		})
		var names []string
		for _, k := range news {
			names = append(names, k.Name)
		}
		if len(names) > 0 && news[0].Type != translator.Secret { // secrets are made here
			slices.Sort(names)
			a.again(news[0].Type, names)
		}
	}
}

// compare brings what is refused of a type to what Envoy says, and returns what is news.
func (a *answers) compare(t xds.TypeStatus) (news []translator.Key) {
	said := map[string]bool{}
	if t.Nack != nil {
		for _, r := range t.Nack.Resources {
			said[r.Name] = true
		}
	}
	for k := range a.refused {
		if k.Type.String() == t.Type && !said[k.Name] {
			delete(a.refused, k)
			news = append(news, k)
			a.log.Info("envoy has taken what it refused", "proxy", a.proxy, "type", t.Type, "resource", k.Name)
		}
	}
	typ := translator.Type(0)
	for typ.String() != t.Type {
		typ++
	}
	for name := range said {
		k := translator.Key{Type: typ, Name: name}
		now := refusal{a.version(k), t.Nack.Message}
		if now.version == "" || a.refused[k] == now {
			continue
		}
		a.refused[k] = now
		news = append(news, k)
		a.pause.Reset()
		a.retry = time.Now().Add(a.pause.NextBackOff())
		a.log.Error("envoy refused what it was sent", "proxy", a.proxy, "type", t.Type, "resource", name, "error", t.Nack.Message)
	}
	return news
}

// bar has versions refused that are in quarantine, in these words, and the others no more. The server is made to ask for both.
func (a *answers) bar(all pins, words string) {
	ask := map[translator.Key]bool{}
	for k := range a.barred {
		ask[k] = true
	}
	a.barred = map[translator.Key]refusal{}
	for k, p := range all {
		if p.bad != "" {
			a.barred[k], ask[k] = refusal{p.bad, words}, true
		}
	}
	byType := map[translator.Type][]string{}
	for k := range ask {
		byType[k.Type] = append(byType[k.Type], k.Name)
	}
	for t, names := range byType {
		slices.Sort(names)
		a.again(t, names)
	}
}

// expect says whether an Envoy is meant to run.
func (a *answers) expect(envoy bool) {
	if envoy == a.expected {
		return
	}
	a.expected, a.met, a.took, a.since = envoy, !envoy, false, time.Now()
	if !envoy {
		a.release()
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

// poll returns a channel on which to look at Envoy, nil while there is no need.
func (a *answers) poll() <-chan time.Time {
	switch {
	case a.ticker != nil:
	case !a.took && a.expected:
		a.ticker = time.After(meetPoll)
	case a.expected && len(a.refused) > 0:
		a.ticker = time.After(retryPoll)
	}
	return a.ticker
}

// look answers what was stored if the first Envoy has taken it, or has not come for long. After that it sees to what
// Envoy refuses.
func (a *answers) look() {
	a.ticker = nil
	switch {
	case !a.expected:
	case a.took:
		a.judge()
		if len(a.refused) > 0 && time.Now().After(a.retry) {
			a.retry = time.Now().Add(a.pause.NextBackOff())
			a.seats.retry()
		}
	case a.settled():
		a.met, a.took = true, true
		a.judge(a.stored...)
		a.release()
	case !a.met && time.Since(a.since) > meetLimit:
		a.log.Warn("no Envoy has come for its configuration", "proxy", a.proxy)
		a.met = true
		a.release()
	}
}

// settled reports whether an Envoy is there and has answered everything, up to its listeners: it asks for them last.
func (a *answers) settled() bool {
	listens := false
	for _, t := range a.seats.newest().Types {
		if t.Waiting {
			return false
		}
		listens = listens || t.Type == translator.Listener.String()
	}
	return listens
}

func (a *answers) release() {
	for _, d := range a.stored {
		a.answer(d)
	}
	a.stored = nil
}
