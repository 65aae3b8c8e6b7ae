package registry

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// DefaultSyncTimeout is how long the mesh waits for a source's first set if nothing else is said.
const DefaultSyncTimeout = 15 * time.Second

// Options configure an Aggregator.
type Options struct {
	Log      *slog.Logger
	OnChange func()                 // called after a set or a status changed; must not block; nil: nobody listens
	Backoff  func() backoff.BackOff // how long to wait between runs of one source; nil: half a second, doubling to 30 s, with jitter
}

// Status is what is known of one source.
type Status struct {
	Name        string       `json:"name"`
	Synced      bool         `json:"synced"`                // it has published once
	LastPublish time.Time    `json:"last_publish,omitzero"` // when it last published
	Services    int          `json:"services"`              // in the set that is served
	Endpoints   int          `json:"endpoints"`             //
	Restarts    int          `json:"restarts"`              // how often it was run again after an error
	Error       string       `json:"error,omitempty"`       // why it is not running; empty after the next publish
	Diagnostics []Diagnostic `json:"diagnostics,omitempty"` // what is wrong with what it says
}

// Aggregator runs Sources and keeps each one's last good set. Its methods may be called from any goroutine.
type Aggregator struct {
	o     Options
	ready chan struct{}
}

// NewAggregator returns an Aggregator without sources.
func NewAggregator(o Options) *Aggregator { return &Aggregator{o: o, ready: make(chan struct{})} }

// Add adds a source; its place among the sources is its precedence. A syncTimeout of zero means
// DefaultSyncTimeout. All sources are added before Run. It fails if the name is taken.
func (a *Aggregator) Add(name string, s Source, syncTimeout time.Duration) error {
	return fmt.Errorf("registry %s: no such thing yet", name)
}

// Run runs all sources until ctx is done and they have ended. It returns nil.
func (a *Aggregator) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Ready is closed when every source has published once or had its sync timeout.
func (a *Aggregator) Ready() <-chan struct{} { return a.ready }

// Sets returns the last good set of every source, in the order in which they were added; a source that has not
// published has an empty one. A set that has not changed keeps its slice.
func (a *Aggregator) Sets() []Set { return nil }

// Status returns what is known of every source, in the order in which they were added.
func (a *Aggregator) Status() []Status { return nil }

// Report replaces what the source of that name has to say about its registry besides its set, for Status.
func (a *Aggregator) Report(name string, ds []Diagnostic) {}
