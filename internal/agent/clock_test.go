package agent

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/wattle-mesh/wattle/internal/api"
)

func TestTheClockIsMeasuredBetweenQuestionAndAnswer(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		what         string
		ahead, round time.Duration
		want         time.Duration
		alarm        bool
	}{
		{"right", 0, 20 * time.Millisecond, 0, false},
		{"a little", 1500 * time.Millisecond, 20 * time.Millisecond, 0, false},
		{"less than anybody is warned of", 9 * time.Second, 20 * time.Millisecond, 9 * time.Second, false},
		{"ahead", 11 * time.Second, 20 * time.Millisecond, 11 * time.Second, true},
		{"behind", -5 * time.Minute, time.Second, -5 * time.Minute, true},
		{"an answer that took so long that nobody knows", 11 * time.Second, 6 * time.Second, 0, false},
		{"far ahead, in spite of a long answer", time.Hour, 20 * time.Second, time.Hour, true},
	} {
		book := &logbook{}
		k := clock{alarms: &alarms{log: logTo(book)}, held: new(value[time.Duration])}
		for range 3 {
			n := k.ask(at)
			k.hear(n, at.Add(c.round/2-c.ahead), at.Add(c.round))
			k.hear(n, at.Add(time.Hour), at.Add(c.round)) // a second answer to one question counts for nothing
		}
		if got := k.held.Now(); got != c.want {
			t.Errorf("%s: %s ahead, want %s", c.what, got, c.want)
		}
		if got := len(k.alarms.held.Now()) > 0; got != c.alarm {
			t.Errorf("%s: alarm %t, want %t", c.what, got, c.alarm)
		}
		if n := strings.Count(book.String(), "ALARM"); c.alarm && n != 1 {
			t.Errorf("%s: logged %d times", c.what, n)
		}
		k.hear(k.ask(at), at, at)
		if k.held.Now() != 0 || len(k.alarms.held.Now()) > 0 {
			t.Errorf("%s: the alarm stays when the clock is right", c.what)
		}
	}
}

func TestAHostWhoseClockIsWrongIsWarnedAndServes(t *testing.T) {
	for _, skew := range []time.Duration{5 * time.Minute, -5 * time.Minute} {
		t.Run(skew.String(), func(t *testing.T) {
			w := newWorld(t)
			w.skew = -skew // the server's: the host's is ahead of it
			w.listen()
			w.policy(twoServices)
			w.application("ADDR:9080")
			w.application("ADDR:9070")
			w.join()
			w.answers("ADDR:10080", 200)
			w.wait("the alarm at the server", func() error {
				r := w.lastReport()
				if got := time.Duration(r.GetClockAhead()) * time.Second; (got-skew).Abs() > 2*time.Second || len(r.GetAlarms()) != 1 || r.GetAlarms()[0].GetName() != clockAlarm {
					return fmt.Errorf("%v", r)
				}
				return nil
			})
			agent := api.NewClient(api.ClientOptions{Address: "unix:" + w.config().RunDir + "/" + agentSocket, Agent: true})
			defer agent.Close()
			s, err := agent.Host(t.Context())
			if err != nil || len(s.Alarms) != 1 || !s.Connected || s.Node != "h1" || (time.Duration(s.ClockAhead)-skew).Abs() > 2*time.Second {
				t.Errorf("%+v, %v", s, err)
			}
			if !strings.Contains(s.Alarms[0].Text, "timedatectl") {
				t.Errorf("no remedy: %q", s.Alarms[0].Text)
			}
		})
	}
}
