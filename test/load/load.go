// Package load is the standard load: requests at a steady rate, whatever the answers, over every way in which
// applications call each other. What goes in is where each kind of request is sent; what comes out is one
// Result for each request, and tables over them. A test starts a load, injects its fault in the middle, stops
// the load and asserts on the results.
package load

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/wattle-mesh/wattle/test/load/echo"
)

// Defaults of Options.
const (
	DefaultRate    = 200.0
	DefaultTimeout = 5 * time.Second
)

// bodySize is the size of the bodies that are sent and must come back, in bytes.
const bodySize = 512

// Kind is a way to call an application.
type Kind string

// The kinds. Get and Post keep HTTP/1 connections alive, H2 is a POST over HTTP/2 without TLS, GRPC is a unary call, Stream
// one with several messages both ways, TCP is a connection for one line and its answer. All but Get check that what they
// sent comes back.
const (
	Get    Kind = "get"
	Post   Kind = "post"
	H2     Kind = "h2"
	GRPC   Kind = "grpc"
	Stream Kind = "stream"
	TCP    Kind = "tcp"
)

// Target is where one kind of request goes. At Addr there is an echo.Server, perhaps with a mesh before it.
type Target struct {
	Kind   Kind
	Addr   string            // host:port, or unix:PATH
	Path   string            // HTTP; "/" if empty
	Host   string            // HTTP's Host; "load" if empty
	Header map[string]string // HTTP headers and gRPC metadata to send
}

// Options is what to send. The rate is that of all targets together; they take turns.
type Options struct {
	Targets []Target
	Rate    float64       // requests per second; DefaultRate if zero
	Timeout time.Duration // of a request, from when it was due; DefaultTimeout if zero
}

// Result is what became of one request.
type Result struct {
	ID       string
	Kind     Kind
	Due      time.Time     // when it should have been sent; the sender may be late
	Took     time.Duration // from Due to the end of the answer
	Status   int           // HTTP status, 200 for a good answer of other kinds, 0 without an answer
	Attempts int           // how often a proxy sent it on, as it says; 0 if it does not say
	Resent   int           // how often the client itself sent it again, on a connection that had died
	Answer   echo.Answer   // who answered; zero if the answer is not that of an echo.Server
	Err      error         // why it failed; nil if it did not
}

// Load is a running load.
type Load struct {
	opts     Options
	prefix   string
	shooters []shooter
	stop     context.CancelFunc
	ended    chan struct{}
	flying   sync.WaitGroup

	mu      sync.Mutex
	results []Result
	changed chan struct{} // closed, and made anew, when results grows
}

// shooter sends the requests of one target.
type shooter interface {
	// shoot sends one request and fills in what became of it; ctx carries its deadline.
	shoot(ctx context.Context, r *Result)
	close()
}

// Start begins to send, until Stop or until ctx is done. It opens no connection before the first request.
func Start(ctx context.Context, o Options) (*Load, error) {
	o.Rate = cmp.Or(o.Rate, DefaultRate)
	o.Timeout = cmp.Or(o.Timeout, DefaultTimeout)
	if len(o.Targets) == 0 || o.Rate < 0 {
		return nil, errors.New("load: want targets and a positive rate")
	}
	l := &Load{
		opts: o, prefix: fmt.Sprintf("%08x", rand.Uint32()),
		ended: make(chan struct{}), changed: make(chan struct{}),
	}
	for _, t := range o.Targets {
		s, err := newShooter(t)
		if err != nil {
			l.close()
			return nil, fmt.Errorf("load: %s %s: %w", t.Kind, t.Addr, err)
		}
		l.shooters = append(l.shooters, s)
	}
	ctx, l.stop = context.WithCancel(ctx)
	go l.run(ctx)
	return l, nil
}

// Stop ends the sending, waits for the requests in flight and returns what became of all.
func (l *Load) Stop() *Report {
	l.stop()
	<-l.ended
	return l.Report()
}

// Report returns what became of the requests that have ended so far.
func (l *Load) Report() *Report {
	l.mu.Lock()
	defer l.mu.Unlock()
	rs := slices.Clone(l.results)
	slices.SortFunc(rs, func(a, b Result) int { return a.Due.Compare(b.Due) })
	return &Report{Results: rs}
}

// Sent waits until n requests have ended that were sent after the call, so it also tells time: at 200 requests
// a second, 200 of them are a second.
func (l *Load) Sent(ctx context.Context, n int) error {
	from := time.Now()
	return l.Await(ctx, func(r Result) bool {
		if !r.Due.Before(from) {
			n--
		}
		return n <= 0
	})
}

// For waits until requests have been sent for d from now on.
func (l *Load) For(ctx context.Context, d time.Duration) error {
	return l.Sent(ctx, int(l.opts.Rate*d.Seconds()))
}

// Await gives done each result that comes after the call, in the order in which they end, until it returns
// true. It fails when ctx is done or the load is stopped before that.
func (l *Load) Await(ctx context.Context, done func(Result) bool) error {
	l.mu.Lock()
	next := len(l.results)
	l.mu.Unlock()
	for {
		l.mu.Lock()
		fresh, changed := l.results[next:], l.changed
		l.mu.Unlock()
		next += len(fresh)
		if slices.ContainsFunc(fresh, done) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("load: %w while waiting for requests", context.Cause(ctx))
		case <-l.ended:
			return errors.New("load: stopped while requests were waited for")
		}
	}
}

// run sends each request when it is due. One that is late does not make the next ones late.
func (l *Load) run(ctx context.Context) {
	defer close(l.ended)
	defer l.close()
	defer l.flying.Wait()
	interval := time.Duration(float64(time.Second) / l.opts.Rate)
	start := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i := 0; ; i++ {
		due := start.Add(time.Duration(i) * interval)
		timer.Reset(time.Until(due))
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		n := i % len(l.shooters)
		r := Result{Kind: l.opts.Targets[n].Kind, Due: due}
		r.ID = fmt.Sprintf("%s-%s-%d", l.prefix, r.Kind, i)
		l.flying.Go(func() { l.one(context.WithoutCancel(ctx), l.shooters[n], r) })
	}
}

// one sends a request and keeps its result. Stopping the load does not end it.
func (l *Load) one(ctx context.Context, s shooter, r Result) {
	ctx, cancel := context.WithDeadline(ctx, r.Due.Add(l.opts.Timeout))
	defer cancel()
	s.shoot(ctx, &r)
	r.Took = time.Since(r.Due)
	if errors.Is(r.Err, context.DeadlineExceeded) {
		r.Err = fmt.Errorf("timeout after %s: %w", l.opts.Timeout, r.Err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.results = append(l.results, r)
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *Load) close() {
	for _, s := range l.shooters {
		s.close()
	}
}

// body returns the body of a request: its id, filled up.
func body(id string) string {
	return id + " " + strings.Repeat("abcdefghijklmno ", bodySize/16)
}
