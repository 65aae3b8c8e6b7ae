package dns

import (
	"math/rand/v2"
	"time"

	"github.com/cenkalti/backoff/v5"
)

const (
	firstPause = time.Second
	longPause  = 30 * time.Second
)

// bound gives a TTL the bounds that are configured.
func (c *config) bound(ttl time.Duration) time.Duration { return min(max(ttl, c.minTTL), c.maxTTL) }

// late makes a wait up to a tenth longer, so that names that were asked for at one moment move apart. It is never
// shorter: a resolver's cache would say the same again, with little time left.
func late(wait time.Duration) time.Duration {
	return wait + rand.N(wait/10+1)
}

// pauses makes the waits between the tries of a question that cannot be answered.
func (c *config) pauses() *backoff.ExponentialBackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval = min(firstPause, c.minTTL)
	b.MaxInterval = max(b.InitialInterval, min(longPause, c.maxTTL))
	b.Multiplier = 2
	return b
}
