package agent

import (
	"fmt"
	"time"
)

const (
	clockAlarm = "clock" // the name of the alarm
	clockLimit = 10 * time.Second
	clockEvery = time.Minute     // how often the server is asked for the time
	clockNoise = 2 * time.Second // less is not worth a word
)

// clock measures how far this host's clock is ahead of the server's. One goroutine uses it.
type clock struct {
	alarms *alarms
	held   *value[time.Duration] // ahead; negative: behind
	asked  time.Time
	number uint64 // of the question
}

// ask notes that the server is asked now, and returns the number of the question.
func (c *clock) ask(now time.Time) uint64 {
	c.number++
	c.asked = now
	return c.number
}

// hear takes the server's answer. It was given between the question and now: half of that time is how wrong it may be.
func (c *clock) hear(number uint64, server, now time.Time) {
	if number != c.number || c.asked.IsZero() {
		return
	}
	round := now.Sub(c.asked)
	ahead := c.asked.Add(round / 2).Sub(server)
	c.asked = time.Time{}
	switch off := ahead.Abs(); {
	case off-round/2 >= clockLimit:
		c.alarms.raise(clockAlarm, skewed(ahead))
	case off+round/2 < clockLimit-time.Second:
		c.alarms.end(clockAlarm)
	case round > clockNoise: // it took too long to tell
		return
	}
	if ahead.Abs() < clockNoise {
		ahead = 0
	}
	if ahead = ahead.Round(time.Second); ahead != c.held.Now() {
		c.held.Set(ahead)
	}
}

// skewed says how wrong the clock is, and what helps. A new certificate began ten minutes ago by the server's clock.
func skewed(ahead time.Duration) string {
	way := "ahead of"
	if ahead < 0 {
		way = "behind"
	}
	return fmt.Sprintf("this host's clock is %s %s the server's; with 10 minutes new certificates are refused. Have it synchronized: timedatectl",
		ahead.Abs().Round(time.Second), way)
}
