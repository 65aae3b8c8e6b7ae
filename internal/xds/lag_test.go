package xds

import (
	"fmt"
	"maps"
	"testing"

	"github.com/wattle-mesh/wattle/translator"
)

func TestWhoLagsIsWhoHasNotAcknowledgedWhatIsInItsScope(t *testing.T) {
	in(t, func(d *dialogue) {
		lag := func(want string, names ...string) {
			t.Helper()
			lagging, away := d.srv.Lagging(translator.Endpoint, names)
			if got := fmt.Sprint(lagging, away); got != want {
				t.Errorf("%s, want %s", got, want)
			}
		}
		lag("[p0] []", "c-0") // it has asked for nothing yet
		d.say(request{typ: translator.Endpoint, subscribe: []string{"*"}})
		d.hear("endpoint c-0 c-1")
		lag("[p0] []", "c-0")
		d.ack(translator.Endpoint)
		lag("[] []", "c-0", "c-1")
		lag("[] []", "c-9") // nobody may call it
		d.set(translator.Endpoint, "c-0", "drained")
		d.apply()
		d.hear("endpoint c-0")
		lag("[p0] []", "c-1", "c-0")
		lag("[] []", "c-1")
		d.set(translator.Endpoint, "c-1", "busy")
		d.apply()
		d.ack(translator.Endpoint)
		lag("[] []", "c-0") // whatever comes after it
		d.nack(translator.Endpoint, "no")
		lag("[p0] []", "c-1")
		d.p.disconnect()
		lag("[] [p0]", "c-0")
	})
}

func TestWhoComesBackLagsUntilItHasWhatChangedMeanwhile(t *testing.T) {
	in(t, func(d *dialogue) {
		held := maps.Clone(d.w.inScope("p0")[translator.Endpoint])
		d.set(translator.Endpoint, "c-0", "drained")
		d.apply()
		d.say(request{typ: translator.Endpoint, subscribe: []string{"*"}, initial: held})
		d.hear("endpoint c-0")
		if lagging, _ := d.srv.Lagging(translator.Endpoint, []string{"c-0"}); len(lagging) != 1 {
			t.Error("what it held before counts for what there is now")
		}
		d.ack(translator.Endpoint)
		if lagging, _ := d.srv.Lagging(translator.Endpoint, []string{"c-0"}); len(lagging) != 0 {
			t.Error(lagging)
		}
	})
}
