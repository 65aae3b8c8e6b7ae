package systemd

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wattle-mesh/wattle/adapters"
)

func TestNothingIsLeftOfAHostThatLeaves(t *testing.T) {
	h := newHost(t)
	web, shop := companionOf("web.service"), companionOf("shop.service")
	for unit, state := range map[string]string{
		"web.service": "active", "shop.service": "inactive", web: "active", shop: "inactive", "other.service": "active", unitName("gw-old"): "failed", "wattle-proxies.slice": "active",
	} {
		h.Set(unit, state)
	}
	foreign := filepath.Join(h.etc, "web.service.d", "override.conf")
	placed := filepath.Join(h.runUnits(), needed[0])
	if err := errors.Join(os.MkdirAll(filepath.Dir(foreign), 0o755), os.WriteFile(foreign, nil, 0o644), os.WriteFile(placed, nil, 0o644), os.MkdirAll(placed+".d", 0o755)); err != nil {
		t.Fatal(err)
	}
	h.whole(adapters.Plan{
		Proxies: []adapters.Proxy{{ID: "h1/host", Name: "host", Bootstrap: []byte("{}"), LowPorts: true, Resources: adapters.Resources{CPUWeight: 50}}},
		Workloads: &adapters.Workloads{Resolver: true, Units: []adapters.Unit{
			{Name: "shop.service", Proxies: []string{"host"}}, {Name: "web.service", Proxies: []string{"host"}, Resolv: "/r"},
		}},
	})
	h.wait("all is there", func() bool { return h.is("host", "active")() && h.State(resolverUnit) == "active" })
	h.stop()
	if err := h.Dismiss(t.Context()); err != nil || h.State(web) != "inactive" {
		t.Errorf("%s is %s, %v", web, h.State(web), err)
	}
	if n := h.did("stop " + shop); n != 0 {
		t.Error("one that does not run is stopped")
	}
	restart, err := h.Clear(t.Context())
	if err != nil || !slices.Equal(restart, []string{"web.service"}) {
		t.Errorf("to be restarted: %q, %v", restart, err)
	}
	for unit, want := range map[string]string{unitName("host"): "inactive", resolverUnit: "inactive", unitName("gw-old"): "inactive", "wattle-proxies.slice": "inactive", "web.service": "active", "other.service": "active"} {
		if got := h.State(unit); got != want {
			t.Errorf("%s is %s, want %s", unit, got, want)
		}
	}
	var left []string
	for _, dir := range []string{h.etc, h.Folder} {
		err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err == nil && (!d.IsDir() || strings.HasSuffix(path, ".d")) {
				left = append(left, path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(left, []string{filepath.Dir(foreign), foreign}) {
		t.Errorf("left: %q", left)
	}
	if restart, err := h.Clear(t.Context()); err != nil || len(restart) > 0 {
		t.Errorf("again: %q, %v", restart, err)
	}
}

func TestWhatDoesNotEndIsNamed(t *testing.T) {
	h := newHost(t)
	h.stop()
	h.Set(unitName("host"), "deactivating")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := h.Clear(ctx); err == nil || !strings.Contains(err.Error(), unitName("host")+" have not ended") {
		t.Error(err)
	}
}
