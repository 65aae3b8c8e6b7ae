package agent

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// clockwork runs a renewal in a bubble of its own time and notes when it asks.
func clockwork(t *testing.T, r *renewal, life, watch time.Duration, fails func(asked int) bool) []time.Duration {
	t.Helper()
	var asked []time.Duration
	start := time.Now()
	r.sign = func(context.Context) (time.Time, time.Time, error) {
		asked = append(asked, time.Since(start))
		if fails(len(asked)) {
			return time.Time{}, time.Time{}, errors.New("not today")
		}
		return time.Now(), time.Now().Add(life), nil
	}
	ctx, cancel := context.WithTimeout(t.Context(), watch)
	defer cancel()
	if err := r.run(ctx); err != nil {
		t.Error(err)
	}
	return asked
}

func TestACertificateIsAskedForAtOnceAndAgainAtAThirdOfItsLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := clockwork(t, &renewal{now: time.Now, log: discard()}, 24*time.Hour, 50*time.Hour, func(int) bool { return false })
		if len(asked) < 6 || asked[0] != 0 {
			t.Fatalf("asked at %v", asked)
		}
		for i := 1; i < len(asked); i++ {
			if gap := asked[i] - asked[i-1]; gap < 7*time.Hour || gap > 9*time.Hour {
				t.Errorf("asked at %v", asked)
			}
		}
	})
}

func TestACertificateOnDiskIsRenewedWhenItIsDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &renewal{now: time.Now, log: discard(), issued: time.Now().Add(-20 * time.Hour), expires: time.Now().Add(4 * time.Hour)}
		if asked := clockwork(t, r, 24*time.Hour, time.Hour, func(int) bool { return false }); len(asked) != 1 || asked[0] != 0 {
			t.Errorf("one that is overdue was asked for at %v", asked)
		}
		r = &renewal{now: time.Now, log: discard(), issued: time.Now(), expires: time.Now().Add(24 * time.Hour)}
		if asked := clockwork(t, r, 24*time.Hour, time.Hour, func(int) bool { return false }); len(asked) != 0 {
			t.Errorf("a fresh one was asked for at %v", asked)
		}
	})
}

func TestARenewalThatFailsIsTriedAgainEverMoreSlowlyAndEverLouder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		book := &logbook{}
		failures := 0
		r := &renewal{now: time.Now, log: slog.New(slog.NewTextHandler(book, nil)), what: "it", failed: func(error) { failures++ }}
		asked := clockwork(t, r, 3*time.Hour, 6*time.Hour, func(n int) bool { return n > 1 })
		if len(asked) < 100 || asked[2]-asked[1] > time.Second || failures != len(asked)-1 {
			t.Fatalf("asked %d times, %d failures, first at %v", len(asked), failures, asked[:3])
		}
		for i := len(asked) / 2; i < len(asked); i++ {
			if gap := asked[i] - asked[i-1]; gap < maxRetry/2 || gap > 2*maxRetry {
				t.Errorf("after a while it asks every %s", gap)
			}
		}
		first, last := strings.Split(book.String(), "\n")[0], book.String()[strings.LastIndex(strings.TrimSpace(book.String()), "\n"):]
		if !strings.Contains(first, "level=WARN") || !strings.Contains(last, "level=ERROR") {
			t.Errorf("first %s, last %s", first, last)
		}
	})
}
