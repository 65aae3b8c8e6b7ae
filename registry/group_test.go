package registry

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// panics is a Source that panics in its first run, or in a goroutine of it.
type panics struct {
	inside bool
	runs   int
}

func (p *panics) Run(ctx context.Context, publish func([]*Service)) error {
	p.runs++
	var nothing *Service
	switch {
	case p.runs > 1:
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

// journal is what was logged. Safe for concurrent use.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(b)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

func TestASourceThatPanicsHasFailed(t *testing.T) {
	for _, inside := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var log journal
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
