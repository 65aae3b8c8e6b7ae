package capture

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"
)

const (
	lookAgain = 10 * time.Second // what was changed by another hand is put right so soon
	proof     = 30 * time.Second // rules that cut the host off from its servers go after so long
	tryEvery  = time.Second
	tryLimit  = 3 * time.Second // for one attempt to reach a server
)

// A Kernel has the table that a Keeper keeps: Table, or a test's.
type Kernel interface {
	Replace(Rules) error
	Has(Rules) (bool, error)
}

// Options configure a Keeper. All fields are required.
type Options struct {
	Log   *slog.Logger
	Table Kernel
	// Reach makes a new connection to a server and returns nil if there is one.
	Reach func(context.Context) error
	// Changed is told how the table is whenever that has changed, from the goroutine of Run.
	Changed func(State)
}

// State is how the table is.
type State struct {
	Applied bool  // the table says what it should
	Proving bool  // and the agent waits until it reaches a server past it
	Err     error // why it does not
}

// ErrCutOff is why rules are not applied that were.
var ErrCutOff = errors.New("with these rules the agent reached no server for 30 s, which it had before: they were taken back")

// Keeper keeps the table as the last Rules say. Rules that a server cannot be reached past, when it could before, are taken
// back: whoever wrote them could not be told otherwise.
type Keeper struct {
	o    Options
	wake chan struct{}

	mu    sync.Mutex
	want  Rules
	known bool
}

// NewKeeper makes a Keeper that leaves the table as it is until the first Set.
func NewKeeper(o Options) *Keeper { return &Keeper{o: o, wake: make(chan struct{}, 1)} }

// Set says what the table should be.
func (k *Keeper) Set(r Rules) {
	k.mu.Lock()
	k.want, k.known = r, true
	k.mu.Unlock()
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// Run keeps the table until ctx is done; the table stays as it is then: a workload's calls do not end with the agent.
func (k *Keeper) Run(ctx context.Context) error {
	var (
		good     Rules     // what was proven, or not in doubt
		last     string    // the version that was applied last
		refused  string    // the version that was taken back
		until    time.Time // the proof's end; zero: nothing is to be proven
		said     State
		first    = true
		proofEnd <-chan time.Time
	)
	say := func(s State) {
		if !first && s.Applied == said.Applied && s.Proving == said.Proving && text(s.Err) == text(said.Err) {
			return
		}
		first, said = false, s
		if s.Err != nil && s.Err != ErrCutOff {
			k.o.Log.Error("the rules of capture are not in force", "error", s.Err, "again_in", lookAgain)
		}
		k.o.Changed(s)
	}
	for {
		k.mu.Lock()
		want, known := k.want, k.known
		k.mu.Unlock()
		again := time.NewTimer(lookAgain)
		v := want.version()
		switch {
		case !known:
		case v == refused:
			say(State{Err: ErrCutOff})
		default:
			fresh := v != last
			reachable := fresh && k.reach(ctx) == nil
			wrote, err := k.match(want, last)
			if err != nil {
				say(State{Err: err})
				break
			}
			last = v
			switch {
			case fresh && wrote && reachable && !want.empty():
				until = time.Now().Add(proof)
			case fresh && (want.empty() || until.IsZero()):
				good, until = want, time.Time{}
			}
			say(State{Applied: true, Proving: !until.IsZero()})
		}
		if !until.IsZero() {
			proofEnd = time.After(tryEvery)
		}
		select {
		case <-k.wake:
		case <-again.C:
		case <-proofEnd:
			proofEnd = nil
			switch err := k.reach(ctx); {
			case ctx.Err() != nil:
			case err == nil:
				good, until = want, time.Time{}
			case time.Now().After(until):
				refused, until = last, time.Time{}
				k.o.Log.Error("the agent does not reach any server since capture has changed: the change is taken back", "error", err,
					"remedy", "exclude the servers' addresses (capture), then change the policy or restart the agent")
				if err := k.o.Table.Replace(good); err != nil {
					k.o.Log.Error("capture cannot be taken back", "error", err, "remedy", "nft delete table inet "+TableName)
				}
			}
		case <-ctx.Done():
			return nil
		}
		again.Stop()
	}
}

// match makes the table say want, if it does not. last is the version that it should have had.
func (k *Keeper) match(want Rules, last string) (wrote bool, err error) {
	ok, err := k.o.Table.Has(want)
	if err != nil || ok {
		return false, err
	}
	if want.version() == last {
		k.o.Log.Warn("another hand has changed the rules of capture, they are written again", "table", "inet "+TableName)
	}
	return true, k.o.Table.Replace(want)
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func (k *Keeper) reach(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, tryLimit)
	defer cancel()
	return k.o.Reach(ctx)
}
