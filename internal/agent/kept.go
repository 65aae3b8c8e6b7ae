package agent

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/wattle-mesh/wattle/internal/lkg"
	"github.com/wattle-mesh/wattle/internal/xds"
	"github.com/wattle-mesh/wattle/translator"
)

// gather is how long changes are gathered before they are put on the disk: that is work for the whole state.
const gather = time.Second

// kept is the last known good of one proxy on disk: what the server has sent for it, and with the host's proxy the plan.
// What is loaded is served at once, with no server there.
type kept struct {
	log   *slog.Logger
	store *lkg.Store
	disk  *disk
	id    string // of the proxy, with the mesh's name: a state of another is not used
	name  string // of the state

	next   value[*state] // to be put on the disk; written by the relay
	failed bool          // the last attempt has
}

// state is what a server has sent for a proxy, and how late that was. Immutable.
type state struct {
	all   []*translator.Resource
	stamp xds.Stamp
}

// load returns what an earlier agent kept; nothing, if there is nothing that can be used.
func (k *kept) load() (all []*translator.Resource, stamp xds.Stamp) {
	_, faults := k.store.Load(k.name, func(data []byte) error {
		p, err := xds.Unpack(data)
		if err == nil && p.ID != k.id {
			err = fmt.Errorf("it is that of proxy %q", p.ID)
		}
		all, stamp = p.Resources, p.Stamp
		return err
	})
	for _, fault := range faults {
		k.log.Error("a state on disk is not used", "proxy", k.id, "error", fault, "instead", instead(all))
	}
	return all, stamp
}

func instead(all []*translator.Resource) string {
	if all == nil {
		return "nothing: the proxy waits for a server"
	}
	return "the one before"
}

// run puts what comes on the disk until ctx is done. Where that fails, the disk being full, the agent goes on from memory and
// tries again.
func (k *kept) run(ctx context.Context) error {
	pause := newPause()
	for {
		now, changed := k.next.Load()
		var again <-chan time.Time
		if now != nil && !k.save(now) {
			again = time.After(pause.NextBackOff())
		} else {
			pause.Reset()
		}
		select {
		case <-changed:
		case <-again:
		case <-ctx.Done():
			return nil
		}
	}
}

// save puts a state on the disk. It is said once that it cannot be, and once that it can be again.
func (k *kept) save(now *state) bool {
	err := k.store.Save(k.name, xds.Pack(k.id, now.stamp, now.all))
	k.disk.note(filepath.Join(keptFolder, k.name), err)
	switch {
	case err != nil && !k.failed:
		k.log.Error("the proxy's state cannot be kept: after a restart of the agent it would be an older one", "proxy", k.id, "error", err)
	case err == nil && k.failed:
		k.log.Info("the proxy's state is kept again", "proxy", k.id)
	}
	k.failed = err != nil
	return err == nil
}

// sorted lists resources in the order of their keys.
func sorted(all map[translator.Key]*translator.Resource) []*translator.Resource {
	out := slices.Collect(maps.Values(all))
	slices.SortFunc(out, func(a, b *translator.Resource) int { return compareKeys(a.Key, b.Key) })
	return out
}
