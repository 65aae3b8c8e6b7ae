package agent

import (
	"context"
	"errors"
	"log/slog"
	"maps"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api"
	hostfacts "github.com/wattle-mesh/wattle/internal/facts"
)

// ownFacts are what this host is.
type ownFacts struct {
	log  *slog.Logger
	dir  string // of files that say more; empty: none
	held value[map[string]string]
	said string // of the files, last
}

// run follows the files until ctx is done.
func (f *ownFacts) run(ctx context.Context) error {
	if f.dir == "" {
		f.load()
		<-ctx.Done()
		return nil
	}
	return configs.Watch(ctx, f.dir, f.load)
}

func (f *ownFacts) load() {
	now, faults := hostfacts.Read(f.dir, api.CheckFact)
	if !maps.Equal(now, f.held.Now()) {
		f.held.Set(now)
	}
	text := ""
	if err := errors.Join(faults...); err != nil {
		text = err.Error()
	}
	if text != f.said && text != "" {
		f.log.Warn("facts in " + f.dir + " are left out\n" + text)
	}
	f.said = text
}
