package registry

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// panics is a Source that panics in its run, or in a goroutine of it, until it is sound.
type panics struct {
	inside, sound bool
	runs          int
}

func (p *panics) Run(ctx context.Context, publish func([]*Service)) error {
	p.runs++
	var nothing *Service
	switch {
	case p.sound:
		publish([]*Service{service("a", outside("10.0.0.1"))})
		<-ctx.Done()
		return nil
	case p.inside:
		g, _ := NewGroup(ctx)
		g.Go(func() error { publish([]*Service{{Name: nothing.Name}}); return nil })
		return g.Wait()
	}
	publish([]*Service{{Name: nothing.Name}})
	return nil
}

func TestASourceThatPanicsHasFailed(t *testing.T) {
	for _, inside := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var log bytes.Buffer
			p := &panics{inside: inside}
			a := NewAggregator(Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
			add(t, a, "nomad", p, 0)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- a.Run(ctx) }()
			synctest.Wait()
			if s := a.Status()[0]; !strings.Contains(s.Error, "nil pointer dereference") || strings.Contains(s.Error, "goroutine") {
				t.Errorf("status %+v", s)
			}
			if text := log.String(); !strings.Contains(text, "stack=") || !strings.Contains(text, "panics).Run") {
				t.Errorf("the log has no stack: %s", text)
			}
			p.sound = true
			time.Sleep(2 * firstPause)
			synctest.Wait()
			if s := a.Status()[0]; s.Error != "" || s.Endpoints != 1 || p.runs != 2 {
				t.Errorf("after %d runs status %+v", p.runs, s)
			}
			cancel()
			<-done
		})
	}
}

func TestSafelyTellsErrorsFromPanics(t *testing.T) {
	plain := errors.New("refused")
	if err := Safely(func() error { return plain }); err != plain {
		t.Error(err)
	}
	var fault *Panic
	if err := Safely(func() error { panic("odd") }); !errors.As(err, &fault) || fault.Value != "odd" || len(fault.Stack) == 0 {
		t.Error(err)
	}
}
