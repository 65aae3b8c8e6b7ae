package registry

import (
	"context"
	"fmt"
	"runtime/debug"

	"golang.org/x/sync/errgroup"
)

// Panic is the error of a source that panicked: of a fault of its driver, mostly one that a registry's answer brought
// out. It costs that run of the source, not the server.
type Panic struct {
	Value any
	Stack []byte
}

func (p *Panic) Error() string {
	return "a fault of its driver, please report it with the stack in the log: " + clip(fmt.Sprint(p.Value), maxShown)
}

// Safely returns what f returns; a *Panic if it panics.
func Safely(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &Panic{v, debug.Stack()}
		}
	}()
	return f()
}

// Group is the goroutines of a source's run: an errgroup.Group of which one that panics has failed with a *Panic. A
// driver starts its goroutines with it, or wraps them in Safely: nobody else can catch what they panic with.
type Group struct{ of *errgroup.Group }

// NewGroup returns a Group and a context that is done when one of the group has failed, or all have ended.
func NewGroup(ctx context.Context) (*Group, context.Context) {
	g, ctx := errgroup.WithContext(ctx)
	return &Group{g}, ctx
}

// Go calls f in a goroutine. It blocks while the limit is reached.
func (g *Group) Go(f func() error) { g.of.Go(func() error { return Safely(f) }) }

// SetLimit bounds how many goroutines run at once. It is called before Go.
func (g *Group) SetLimit(n int) { g.of.SetLimit(n) }

// Wait waits until all have ended, and returns the first error.
func (g *Group) Wait() error { return g.of.Wait() }
