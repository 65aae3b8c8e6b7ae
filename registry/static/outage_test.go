package static

import (
	"context"
	"log/slog"
	"testing"

	"github.com/wattle-mesh/wattle/registry"
)

// A folder that does not load is a registry that cannot be read: its state says so, and a server that restarts meanwhile
// goes on with what it said.
func TestAFolderThatDoesNotLoadOutlivesARestart(t *testing.T) {
	f, snapshots := newFolder(t), t.TempDir()
	f.write("good.hcl", "service \"web\" {\n  port = 80\n  endpoint { address = \"10.0.0.1\" }\n}\n")
	life := func(live func(state func() registry.Status, next func())) {
		changed := make(chan struct{}, 1000)
		f.served = registry.NewAggregator(registry.Options{Log: slog.New(slog.DiscardHandler), Snapshots: snapshots, OnChange: func() { changed <- struct{}{} }})
		if err := f.served.Configure([]registry.Entry{{Name: "files", Type: "static", Source: f.source, Snapshot: true}}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- f.served.Run(ctx) }()
		live(func() registry.Status { return f.served.Status()[0] }, func() {
			select {
			case <-f.reports:
			case <-changed:
			}
		})
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	await := func(state func() registry.Status, next func(), want registry.State) {
		t.Helper()
		for state().State != want || state().Endpoints != 1 {
			next()
		}
	}
	life(func(state func() registry.Status, next func()) {
		await(state, next, registry.Synced)
		f.write("bad.hcl", "service \"x\" {\n")
		await(state, next, registry.Stale)
	})
	life(func(state func() registry.Status, next func()) {
		<-f.served.Ready() // it does not wait for the sync timeout
		await(state, next, registry.FromSnapshot)
		f.remove("bad.hcl")
		await(state, next, registry.Synced)
	})
}
