package api

import (
	"fmt"
	"testing"
	"time"

	"github.com/wattle-mesh/wattle/configs"
)

func TestWhatIsRememberedOfDismissalsIsBounded(t *testing.T) {
	now := time.Now()
	named := func(i int) (*configs.Service, ServiceRef) {
		s := new(configs.Service)
		s.Namespace, s.Name = "shop", fmt.Sprintf("s%d", i)
		return s, refOf(s)
	}
	var d Dismissed
	for i := range maxDismissed + 1 {
		_, ref := named(i)
		d = d.With(ref, now)
		d = d.With(ref, now) // once
	}
	refused := func(i int, at time.Time) bool {
		s, _ := named(i)
		_, ok := d.Refuse(s, at)
		return ok
	}
	if len(d) != maxDismissed || refused(0, now) || !refused(1, now) || !refused(maxDismissed, now) {
		t.Errorf("%d are kept, and not the latest", len(d))
	}
	if refused(1, now.Add(dismissedFor)) {
		t.Error("one is kept for longer than a day")
	}
	_, ref := named(1)
	was := d
	if d = d.Without(ref); refused(1, now) || len(was) != maxDismissed {
		t.Error("it is not forgotten, or another's are")
	}
	if d = d.With(ref, now.Add(dismissedFor)); len(d) != 1 {
		t.Errorf("%d are kept for longer than a day", len(d))
	}
}
