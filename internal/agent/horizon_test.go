package agent

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/wattle-mesh/wattle/internal/xds"
)

// at publishes a policy at a moment of a store's life.
func (w *world) publishAt(s xds.Stamp, text string) {
	w.t.Helper()
	w.mu.Lock()
	w.stamp = s
	w.mu.Unlock()
	w.policy(text)
}

// moved is twoServices with web's upstream elsewhere.
func moved(port string) string { return strings.Replace(twoServices, "ADDR:10080", "ADDR:"+port, 1) }

func (w *world) alarm(name string) bool {
	for _, a := range w.lastReport().GetAlarms() {
		if a.GetName() == name {
			return true
		}
	}
	return false
}

func TestWhatAServerThatWentBackInTimeSendsIsNotTaken(t *testing.T) {
	w := newWorld(t)
	w.listen()
	w.publishAt(xds.Stamp{Store: "s", Policy: 5, Registrations: 50}, twoServices)
	w.application("ADDR:9080")
	w.application("ADDR:9070")
	stop := w.join()
	w.answers("ADDR:10080", 200)
	w.kept(time.Time{})

	gone := func(addr string) {
		w.t.Helper()
		if _, _, err := w.get(addr); err == nil {
			w.t.Errorf("%s answers", addr)
		}
	}
	w.publishAt(xds.Stamp{Store: "s", Policy: 4, Registrations: 60}, moved("10081"))
	w.wait("the alarm", func() error {
		if !w.alarm(behindAlarm) {
			return errors.New("there is none")
		}
		return nil
	})
	w.answers("ADDR:10080", 200)
	gone("ADDR:10081")

	// An agent that starts again knows it from the disk.
	stop()
	w.start(nil)
	w.answers("ADDR:10080", 200)
	w.wait("the alarm of the new agent", func() error {
		if strings.Count(w.log.String(), "ALARM: the server offers policy revision 4") < 2 {
			return errors.New("it is not raised")
		}
		return nil
	})
	gone("ADDR:10081")

	// The server has gone on, past what the host has had.
	w.publishAt(xds.Stamp{Store: "s", Policy: 5, Registrations: 61}, moved("10082"))
	w.answers("ADDR:10082", 200)
	w.wait("the end of the alarm", func() error {
		if w.alarm(behindAlarm) {
			return errors.New("it is raised")
		}
		return nil
	})

	// Another store has no order with this one.
	w.publishAt(xds.Stamp{Store: "t", Policy: 1, Registrations: 1}, moved("10083"))
	w.answers("ADDR:10083", 200)
}

func TestAProxyThatIsNotBehindEndsNoOthersAlarm(t *testing.T) {
	all := &alarms{log: discard()}
	old, fresh := horizon{log: discard(), alarms: all, stamp: xds.Stamp{Store: "s", Policy: 5}}, horizon{log: discard(), alarms: all}
	raised := func() bool { return len(all.held.Now()) == 1 }
	if old.pass(xds.Stamp{Store: "s", Policy: 4}) == nil || fresh.pass(xds.Stamp{Store: "s", Policy: 4}) != nil || !raised() {
		t.Errorf("raised is %t", raised())
	}
	if err := old.pass(xds.Stamp{Store: "s", Policy: 6}); err != nil || raised() {
		t.Errorf("%v, raised is %t", err, raised())
	}
	if fresh.pass(xds.Stamp{Store: "s", Policy: 3}) == nil || !raised() {
		t.Errorf("raised is %t", raised())
	}
	if fresh.close(); raised() {
		t.Error("it outlives the proxy")
	}
}
