package api

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/wattle-mesh/wattle/configs"
)

// What is remembered of registrations that were ended.
const (
	maxDismissed = 1000
	dismissedFor = 24 * time.Hour
)

// Dismissed are registrations that somebody has ended: not their run, and not their silence. A run that lives on would bring
// them back with its next renewal, so it is refused while they are remembered, until somebody registers them the first time,
// for a day, and at most 1000, the latest. In the order in which they were ended. Immutable.
type Dismissed []Dismissal

// Dismissal is one of them.
type Dismissal struct {
	ServiceRef
	At time.Time `json:"at"`
}

// With returns them and one that is ended now.
func (d Dismissed) With(ref ServiceRef, now time.Time) Dismissed {
	out := slices.DeleteFunc(d.Without(ref), func(o Dismissal) bool { return o.old(now) })
	return append(out[max(0, len(out)+1-maxDismissed):], Dismissal{ref, now.UTC().Truncate(time.Second)})
}

// Without returns them without some, in a copy.
func (d Dismissed) Without(refs ...ServiceRef) Dismissed {
	return slices.DeleteFunc(slices.Clone(d), func(o Dismissal) bool { return slices.Contains(refs, o.ServiceRef) })
}

// Refuse returns what a run is answered that renews one of them, and whether it is one of them.
func (d Dismissed) Refuse(s *configs.Service, now time.Time) (ServiceAnswer, bool) {
	i := slices.IndexFunc(d, func(o Dismissal) bool { return o.ServiceRef == refOf(s) && !o.old(now) })
	if i < 0 {
		return ServiceAnswer{}, false
	}
	return DismissedAnswer(s, "it was deregistered at "+d[i].At.Format(time.RFC3339)), true
}

func (d Dismissal) old(now time.Time) bool { return now.Sub(d.At) >= dismissedFor }

// DismissedAnswer is what a run is answered whose registration somebody has ended. why says so, and gets the remedy.
func DismissedAnswer(s *configs.Service, why string) ServiceAnswer {
	return ServiceAnswer{ServiceStatus: ServiceStatus{
		ServiceRef: refOf(s), Service: s, Origin: s.Origin, State: StateDeregistered, Health: "unknown",
		Reason: why + ", and its run does not bring it back; start that again, or register it: wattle service register",
	}}
}

// dismiss replaces what is remembered of registrations that were ended, on disk first. The caller holds r.writing.
func (r *Registrar) dismiss(next Dismissed) error {
	if slices.Equal(next, r.ended) {
		return nil
	}
	text, err := json.Marshal(next)
	if err == nil {
		err = r.o.Store.SaveDismissed(text)
	}
	if err == nil {
		r.ended = next
	}
	return err
}
