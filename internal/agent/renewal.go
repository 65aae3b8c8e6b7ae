package agent

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/cenkalti/backoff/v5"
	"google.golang.org/grpc"

	"github.com/wattle-mesh/wattle/internal/api/apipb"
)

// How certificates are renewed.
const (
	firstRetry = 200 * time.Millisecond
	maxRetry   = 30 * time.Second
	minRenewal = 200 * time.Millisecond // between two renewals, whatever a server's clock says
	longSleep  = time.Minute            // a host that was suspended looks at the clock again after this
	slowRetry  = 10 * time.Minute       // after a failure that is hopeless
)

// signer asks the server to certify a key.
type signer func(ctx context.Context, req *apipb.SignRequest, opts ...grpc.CallOption) (*apipb.SignResponse, error)

// renewal keeps one certificate fresh: it is asked for at once if there is none, and again when a third of its
// life has passed.
type renewal struct {
	log             *slog.Logger
	now             func() time.Time
	what            string
	issued, expires time.Time // of what is held; zero: nothing
	// sign gets a new certificate into force and returns its times.
	sign func(context.Context) (issued, expires time.Time, err error)
	// failed, if set, is told of every failure.
	failed func(error)
	// hopeless, if set, says which failures only a person can end.
	hopeless func(error) bool
}

// run renews until ctx is done. Failures are tried again with back-off, for ever: the server may come to grant
// what it refuses now.
func (r *renewal) run(ctx context.Context) error {
	for {
		if !r.expires.IsZero() && !sleepUntil(ctx, r.due(), r.now) {
			return nil
		}
		pause := newPause()
		for {
			issued, expires, err := r.once(ctx)
			if err == nil {
				r.issued, r.expires = issued, expires
				break
			}
			if ctx.Err() != nil {
				return nil
			}
			if r.failed != nil {
				r.failed(err)
			}
			wait := pause.NextBackOff()
			if r.hopeless != nil && r.hopeless(err) {
				wait += slowRetry
			}
			r.complain(err, wait)
			if !sleep(ctx, wait) {
				return nil
			}
		}
	}
}

func (r *renewal) once(ctx context.Context) (time.Time, time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	return r.sign(ctx)
}

// due is when a third of the certificate's life has passed, give or take a tenth of that, so that hosts that
// started together do not renew together.
func (r *renewal) due() time.Time {
	third := float64(r.expires.Sub(r.issued)) / 3
	after := time.Duration(third * (0.9 + 0.2*rand.Float64()))
	return r.issued.Add(max(after, minRenewal))
}

// complain logs a failure, louder when half of the life has passed.
func (r *renewal) complain(err error, wait time.Duration) {
	level := slog.LevelWarn
	attrs := []any{"error", err, "again_in", wait.Round(time.Millisecond)}
	if !r.expires.IsZero() {
		attrs = append(attrs, "expires", r.expires)
		if r.now().After(r.issued.Add(r.expires.Sub(r.issued) / 2)) {
			level = slog.LevelError
		}
	}
	r.log.Log(context.Background(), level, r.what+" cannot be had", attrs...)
}

// newPause returns the pauses between attempts to get something from the server.
func newPause() *backoff.ExponentialBackOff {
	p := backoff.NewExponentialBackOff()
	p.InitialInterval, p.MaxInterval = firstRetry, maxRetry
	return p
}

// sleep waits for d; it reports false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// sleepUntil waits for a time of day by a clock.
func sleepUntil(ctx context.Context, at time.Time, now func() time.Time) bool {
	at = at.Round(0) // without the monotonic clock, which stands still while the host is suspended
	for {
		left := at.Sub(now().Round(0))
		if left <= 0 {
			return ctx.Err() == nil
		}
		if !sleep(ctx, min(left, longSleep)) {
			return false
		}
	}
}
