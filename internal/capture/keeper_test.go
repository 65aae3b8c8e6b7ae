package capture

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fake is a table in memory, and whether a server can be reached past it.
type fake struct {
	mu      sync.Mutex
	now     Rules
	wrote   int
	cuts    string // the version that cuts the host off
	down    bool   // no server runs
	broken  error
	said    []State
	dropped bool // an attempt to reach takes for ever
}

func (f *fake) Replace(r Rules) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken == nil {
		f.now = r
		f.wrote++
	}
	return f.broken
}

func (f *fake) Has(r Rules) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now.version() == r.version(), nil
}

func (f *fake) reach(ctx context.Context) error {
	f.mu.Lock()
	cut := f.down || f.now.version() == f.cuts
	dropped := f.dropped
	f.mu.Unlock()
	if cut && dropped {
		<-ctx.Done()
		return ctx.Err()
	}
	if cut {
		return errors.New("refused")
	}
	return nil
}

func (f *fake) is(t *testing.T, r Rules, s State) {
	t.Helper()
	synctest.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.now.version() != r.version() {
		t.Errorf("the table is %+v, want %+v", f.now, r)
	}
	if got := f.said[len(f.said)-1]; got.Applied != s.Applied || got.Proving != s.Proving || !errors.Is(got.Err, s.Err) {
		t.Errorf("it says %+v, want %+v", got, s)
	}
}

// keeping runs f with a Keeper, by a clock of its own.
func keeping(t *testing.T, f *fake, do func(k *Keeper)) {
	synctest.Test(t, func(t *testing.T) {
		k := NewKeeper(Options{Log: slog.New(slog.DiscardHandler), Table: f, Reach: f.reach, Changed: func(s State) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.said = append(f.said, s)
		}})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- k.Run(ctx) }()
		do(k)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func rules(port uint16) Rules {
	return Rules{Redirects: []Redirect{{Owner: Owner{UIDs: []uint32{web}}, Port: port}}}
}

func TestRulesAreProvenByAServerThatIsReached(t *testing.T) {
	f := &fake{}
	keeping(t, f, func(k *Keeper) {
		k.Set(rules(1))
		f.is(t, rules(1), State{Applied: true, Proving: true})
		time.Sleep(2 * tryEvery)
		f.is(t, rules(1), State{Applied: true})
		time.Sleep(time.Hour)
		k.Set(rules(1))
		f.is(t, rules(1), State{Applied: true})
		if f.wrote != 1 {
			t.Errorf("written %d times", f.wrote)
		}
	})
	if f.now.version() != rules(1).version() {
		t.Error("the table went with the Keeper")
	}
}

func TestRulesThatCutTheHostOffAreTakenBack(t *testing.T) {
	for _, dropped := range []bool{false, true} {
		f := &fake{cuts: rules(2).version(), dropped: dropped}
		keeping(t, f, func(k *Keeper) {
			k.Set(rules(1))
			time.Sleep(2 * tryEvery)
			k.Set(rules(2))
			time.Sleep(proof - tryEvery - tryLimit)
			f.is(t, rules(2), State{Applied: true, Proving: true})
			time.Sleep(2 * (tryEvery + tryLimit))
			f.is(t, rules(1), State{Err: ErrCutOff})
			time.Sleep(time.Hour) // they are not tried again
			k.Set(rules(2))
			f.is(t, rules(1), State{Err: ErrCutOff})
			k.Set(rules(3))
			time.Sleep(2 * tryEvery)
			f.is(t, rules(3), State{Applied: true})
		})
	}
}

func TestTheFirstRulesThatCutTheHostOffLeaveNoTable(t *testing.T) {
	f := &fake{cuts: rules(1).version()}
	keeping(t, f, func(k *Keeper) {
		k.Set(rules(1))
		time.Sleep(proof + 2*tryEvery)
		f.is(t, Rules{}, State{Err: ErrCutOff})
	})
}

func TestALaterChangeDoesNotHideThatTheFirstCutTheHostOff(t *testing.T) {
	f := &fake{cuts: rules(1).version()}
	keeping(t, f, func(k *Keeper) {
		k.Set(rules(1))
		time.Sleep(proof / 2)
		f.mu.Lock()
		f.down = true // as it looks while the first are in force
		f.mu.Unlock()
		k.Set(rules(2))
		time.Sleep(proof)
		f.is(t, Rules{}, State{Err: ErrCutOff})
	})
}

func TestWithoutServersRulesAreNotInDoubt(t *testing.T) {
	f := &fake{down: true}
	keeping(t, f, func(k *Keeper) {
		k.Set(rules(1))
		time.Sleep(time.Hour)
		f.is(t, rules(1), State{Applied: true})
	})
}

func TestATableThatAnEarlierAgentMadeIsNotInDoubt(t *testing.T) {
	f := &fake{now: rules(1), cuts: rules(1).version()}
	keeping(t, f, func(k *Keeper) {
		time.Sleep(time.Hour)
		if len(f.said) > 0 {
			t.Error("it did something before there was a plan")
		}
		k.Set(rules(1))
		time.Sleep(time.Hour)
		f.is(t, rules(1), State{Applied: true})
		if f.wrote != 0 {
			t.Errorf("written %d times", f.wrote)
		}
	})
}

func TestWhatAnotherHandRemovedComesBack(t *testing.T) {
	f := &fake{}
	keeping(t, f, func(k *Keeper) {
		k.Set(rules(1))
		time.Sleep(2 * tryEvery)
		f.mu.Lock()
		f.now = Rules{}
		f.mu.Unlock()
		time.Sleep(lookAgain + time.Second)
		f.is(t, rules(1), State{Applied: true})
	})
}

func TestATableThatCannotBeWrittenIsTriedAgain(t *testing.T) {
	f := &fake{broken: errors.New("no memory")}
	keeping(t, f, func(k *Keeper) {
		k.Set(rules(1))
		f.is(t, Rules{}, State{Err: f.broken})
		f.mu.Lock()
		f.broken = nil
		f.mu.Unlock()
		time.Sleep(lookAgain + 3*tryEvery)
		f.is(t, rules(1), State{Applied: true})
	})
}
