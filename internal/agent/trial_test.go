package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wattle-mesh/wattle/internal/admin"
	"github.com/wattle-mesh/wattle/internal/lkg"
	"github.com/wattle-mesh/wattle/internal/xds"
	"github.com/wattle-mesh/wattle/translator"
)

// served is a state of one cluster and one assignment, in these versions; "": it is not there.
func served(cluster, endpoints string) snapshot {
	out := snapshot{}
	for k, v := range map[translator.Key]string{{Type: translator.Cluster, Name: "c"}: cluster, {Type: translator.Endpoint, Name: "c"}: endpoints} {
		if v != "" {
			out[k] = &translator.Resource{Key: k, Version: v}
		}
	}
	return out
}

func TestAStateIsProvenWhenAnEnvoyWasWellWithItForLong(t *testing.T) {
	var tr trial
	now := time.Now()
	step := func(d time.Duration) time.Time { now = now.Add(d); return now }
	if tr.well(now, served("1", "")) || tr.well(step(probation-1), served("1", "")) {
		t.Error("proven too early")
	}
	if !tr.well(step(1), served("2", "")) || !tr.proven.equal(served("1", "")) {
		t.Errorf("%v is proven", tr.proven)
	}
	tr.well(step(time.Second), served("2", "")) // on trial
	tr.crashed(step(probation - 2*time.Second))
	if tr.well(step(2*time.Second), served("2", "")) {
		t.Error("proven though the Envoy ended")
	}
	if !tr.well(step(probation), served("2", "")) || !tr.proven.equal(served("2", "")) {
		t.Error("not proven though the Envoy was well since")
	}
}

func TestThreeEndsWithinTheProbationAreTooMany(t *testing.T) {
	var tr trial
	now := time.Now()
	for i, c := range []struct {
		after time.Duration
		want  bool
	}{{0, false}, {20 * time.Second, false}, {11 * time.Second, false}, {time.Second, true}} {
		now = now.Add(c.after)
		if got := tr.crashed(now); got != c.want {
			t.Errorf("end %d: %v", i, got)
		}
	}
	tr.back(served("1", ""))
	if tr.crashed(now) {
		t.Error("ends count twice")
	}
}

func TestOneGoesBackToWhatWasOnTrialThenToWhatIsProven(t *testing.T) {
	tr := trial{proven: served("1", "a"), candidate: served("2", "a")}
	if got := tr.back(served("3", "a")); !got.equal(served("2", "a")) {
		t.Errorf("%v", got)
	}
	if got := tr.back(served("2", "a")); !got.equal(served("1", "a")) {
		t.Errorf("%v", got)
	}
	if got := tr.back(served("1", "a")); got != nil {
		t.Errorf("%v: there is nothing else", got)
	}
}

func TestAQuarantineEndsWithNews(t *testing.T) {
	cluster, endpoints := translator.Key{Type: translator.Cluster, Name: "c"}, translator.Key{Type: translator.Endpoint, Name: "c"}
	said := func(k translator.Key, version string) *xds.Response {
		return &xds.Response{Type: k.Type, Resources: []*translator.Resource{{Key: k, Version: version}}}
	}
	gone := func(k translator.Key) *xds.Response { return &xds.Response{Type: k.Type, Removed: []string{k.Name}} }
	for name, c := range map[string]struct {
		good, bad snapshot
		say       *xds.Response
		want      bool
	}{
		"the bad one again":                    {served("1", "a"), served("2", "b"), said(cluster, "2"), false},
		"a third one":                          {served("1", "a"), served("2", "b"), said(cluster, "3"), true},
		"the good one":                         {served("1", "a"), served("2", "b"), said(cluster, "1"), true},
		"that it is gone":                      {served("1", "a"), served("2", "b"), gone(cluster), true},
		"that it is gone, which was bad":       {served("1", "a"), served("", "b"), gone(cluster), false},
		"other endpoints":                      {served("1", "a"), served("2", "b"), said(endpoints, "c"), false},
		"other endpoints, which alone are bad": {served("1", "a"), served("1", "b"), said(endpoints, "c"), true},
		"something else":                       {served("1", "a"), served("2", "b"), said(translator.Key{Type: translator.Route, Name: "c"}, "1"), false},
	} {
		if got := pinsTo(c.good, c.bad).news(c.say); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if all := pinsTo(served("1", "a"), served("2", "b")); len(all) != 1 {
		t.Errorf("%v: what registries say of endpoints goes on", all)
	}
	if all := pinsTo(served("1", "a"), served("2", "")); len(all) != 2 || all[endpoints].good == nil {
		t.Errorf("%v: a cluster that is served again needs its endpoints", all)
	}
}

// faulty is an Envoy that dies as soon as it listens at an address of the world.
const faulty = `#!/bin/sh
%s "$@" &
pid=$!
trap 'kill $pid; wait $pid; exit 0' TERM
while kill -0 $pid 2>/dev/null; do
	if grep -q '%s 00000000:0000 0A' /proc/net/tcp; then
		kill -9 $pid
		wait $pid
		echo 'assert failure: no such luck' >&2
		exit 134
	fi
	sleep 0.02
done
wait $pid
`

// refusedWith returns what the agent says to the server of a type, "" if it took it.
func (w *world) refusedWith(typ translator.Type) string {
	for _, p := range w.xds.Proxies() {
		for _, ts := range p.Types {
			if p.ID == "h1/host" && ts.Type == typ.String() && ts.Nack != nil {
				return ts.Nack.Message
			}
		}
	}
	return ""
}

func (w *world) said(text string) {
	w.t.Helper()
	w.wait("the log to say: "+text, func() error {
		if !strings.Contains(w.log.String(), text) {
			return errors.New("not yet")
		}
		return nil
	})
}

func TestAPolicyThatCrashesEnvoyIsTakenBackUntilThereIsAnother(t *testing.T) {
	w := newWorld(t)
	real, err := filepath.EvalSymlinks("../../.bin/envoy")
	if err != nil {
		t.Fatal(err)
	}
	b := w.address.As4()
	w.envoy = filepath.Join(w.dir, "envoy")
	script := fmt.Sprintf(faulty, real, fmt.Sprintf("%02X%02X%02X%02X:%04X", b[3], b[2], b[1], b[0], 10099))
	if err := os.WriteFile(w.envoy, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	w.listen()
	w.policy(twoServices)
	w.application("ADDR:9080")
	w.application("ADDR:9070")
	stop := w.join()
	w.answers("ADDR:10080", 200)
	w.said("which is on trial")

	const old = `upstream "web" { bind = "ADDR:10070" }`
	w.policy(strings.Replace(twoServices, old, `upstream "web" { bind = "ADDR:10099" }`, 1))
	w.said("in quarantine until it sends something else")
	w.answers("ADDR:10080", 200)
	w.answers("ADDR:10070", 200)
	quarantined := func() error {
		if said := w.refusedWith(translator.Listener); !strings.HasPrefix(said, xds.Quarantined) || !strings.Contains(said, "ended: exit status 134") {
			return fmt.Errorf("it says %q", said)
		}
		return nil
	}
	w.wait("the server to be told", quarantined)

	// An agent that starts again knows it.
	stop()
	w.start(nil)
	w.said("stays in quarantine")
	w.wait("the server to be told again", quarantined)
	w.answers("ADDR:10070", 200)

	w.policy(strings.Replace(twoServices, old, `upstream "web" { bind = "ADDR:10071" }`, 1))
	w.answers("ADDR:10071", 200)
	w.wait("the quarantine to end", func() error {
		if said := w.refusedWith(translator.Listener); said != "" {
			return errors.New(said)
		}
		return nil
	})
	w.answers("ADDR:10080", 200)
}

func TestAnEnvoyThatLetsItsAgentWaitIsStuckAndOneThatIsGoneIsNot(t *testing.T) {
	dir, err := os.MkdirTemp("", "wattle-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "s")
	client := admin.New(path)
	if got := take(t.Context(), client); got != absent {
		t.Errorf("nobody is there: %d", got)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if got := take(t.Context(), client); got != stuck {
		t.Errorf("nobody answers: %d", got)
	}
	l.Close()
	if got := take(t.Context(), client); got != absent {
		t.Errorf("it has gone: %d", got)
	}
}

func TestAnEnvoyThatHangsOnWhatItWasSentIsEndedAndGetsWhatWasBefore(t *testing.T) {
	for name, c := range map[string]struct {
		pulse pulse
		limit time.Duration
	}{"stuck": {stuck, hangLimit}, "never live": {starting, startLimit}} {
		t.Run(name, func(t *testing.T) {
			r, killed := newTrialRelay(t)
			r.guard.trial.proven = served("1", "a")
			r.receive(&xds.Response{Type: translator.Cluster, Resources: []*translator.Resource{served("2", "")[clusterKey]}})
			close(r.ready)
			began := time.Now()
			r.guard.ill, r.guard.last = began, c.pulse
			r.pulse(t.Context(), c.pulse)
			if len(r.table.pins) > 0 || *killed > 0 {
				t.Fatal("it has had no time")
			}
			r.guard.ill = began.Add(-c.limit)
			r.pulse(t.Context(), c.pulse)
			if *killed != 1 || r.table.wanted(clusterKey).Version != "1" {
				t.Errorf("it was ended %d times, and is served %v", *killed, r.table.wanted(clusterKey))
			}
			r.guard.ill = began.Add(-c.limit)
			r.pulse(t.Context(), c.pulse)
			if *killed != 1 {
				t.Error("it is ended though nothing better is there")
			}
			r.guard.ill = began.Add(-c.limit)
			r.pulse(t.Context(), live)
			r.pulse(t.Context(), c.pulse)
			if time.Since(r.guard.ill) > time.Minute {
				t.Error("an Envoy that serves has no time of its own")
			}
		})
	}
}

// What cannot be read is called damaged, and not another proxy's.
func TestAProvenStateThatIsDamagedIsNoOtherProxys(t *testing.T) {
	r, _ := newTrialRelay(t)
	book := &logbook{}
	r.o.Log = logTo(book)
	if err := r.o.Proven.Save(r.kept.name, []byte("no state")); err != nil {
		t.Fatal(err)
	}
	r.restoreTrial(nil)
	if s := book.String(); !strings.Contains(s, "what was proven") || strings.Contains(s, "it is that of proxy") {
		t.Error(s)
	}
}

var clusterKey = translator.Key{Type: translator.Cluster, Name: "c"}

// newTrialRelay makes a relay without a server and an Envoy, and counts how often that is ended.
func newTrialRelay(t *testing.T) (*relay, *int) {
	t.Helper()
	killed := 0
	open := func(name string) *lkg.Store {
		s, err := lkg.Open(filepath.Join(t.TempDir(), name))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	o := relayOptions{
		Log: slog.New(slog.DiscardHandler), ID: "h1/host", Dir: t.TempDir(), Node: new(value[*credential]),
		Disk: newDisk(t.TempDir(), &alarms{log: slog.New(slog.DiscardHandler)}),
		Keep: open("keep"), Proven: open("proven"), Barred: open("barred"),
		Kill: func(context.Context) error { killed++; return nil },
	}
	o.Node.Set(&credential{})
	r := newRelay(o)
	r.answers.again = func(translator.Type, []string) {}
	return r, &killed
}
