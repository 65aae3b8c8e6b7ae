package agent

import (
	"fmt"
	"log/slog"

	"github.com/wattle-mesh/wattle/internal/xds"
)

// behindAlarm is the name of the alarm that a server has less than this host.
const behindAlarm = "server-behind"

// horizon is the latest that a server has sent for a proxy: nothing of before is taken in. It belongs to the relay's goroutine.
type horizon struct {
	log    *slog.Logger
	alarms *alarms
	stamp  xds.Stamp
	raised bool // the alarm, which another proxy of the host may raise, too
}

// pass takes note of a response's stamp. Its error says that the server has gone back in time, as one does whose store was
// restored from an old backup: what the host has stays.
func (h *horizon) pass(s xds.Stamp) error {
	switch {
	case s == (xds.Stamp{}): // an older server
		return nil
	case s.Before(h.stamp):
		err := fmt.Errorf("the server offers policy revision %d and registrations %d of its store, this host has had %d and %d: it keeps what it has. "+
			"Restore a newer backup of the server; or, to go back on purpose, make an empty file store-is-older in the server's state folder and start it again",
			s.Policy, s.Registrations, h.stamp.Policy, h.stamp.Registrations)
		h.alarms.raise(behindAlarm, err.Error())
		h.raised = true
		return err
	case h.stamp.Store != "" && s.Store != h.stamp.Store:
		h.log.Warn("the server has another store than before, and is believed", "was", h.stamp.Store, "is", s.Store)
	}
	if h.raised {
		h.alarms.end(behindAlarm)
		h.raised = false
	}
	h.stamp = s
	return nil
}

// close takes the alarm back without a word: nobody looks any more. Who looks next raises it again.
func (h *horizon) close() {
	if h.raised {
		h.alarms.drop(behindAlarm)
	}
}
