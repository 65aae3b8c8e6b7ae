package systemd

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wattle-mesh/wattle/adapters"
)

func gateway(low bool, r adapters.Resources) adapters.Proxy {
	return adapters.Proxy{ID: "h1/gw-public", Name: "gw-public", Bootstrap: []byte("{}"), LowPorts: low, Resources: r}
}

// may reports whether the main process of the gateway may listen on a low port.
func (h *host) may() bool {
	pid, _ := h.Property(unitName("gw-public"), "MainPID").(uint32)
	now, err := h.Rights(pid)
	return err == nil && now == lowPortsBit
}

func TestAProxyWithALowPortHasTheRightFromItsStart(t *testing.T) {
	h := newHost(t)
	h.apply(gateway(true, adapters.Resources{}))
	h.wait("it runs", h.is("gw-public", "active"))
	if !h.may() || h.did("reload "+unitName("gw-public")) > 0 {
		t.Errorf("it has not got its right at once: %q", h.Done())
	}
	path := filepath.Join(h.Folder, "system", unitName("gw-public")+".d", lowPortsFile)
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o644 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestARightThatComesOrGoesReplacesTheEnvoyOnce(t *testing.T) {
	h := newHost(t)
	h.plan("host")
	h.apply(gateway(false, adapters.Resources{}))
	h.wait("it runs", h.is("gw-public", "active"))
	h.apply(gateway(true, adapters.Resources{}))
	h.wait("it has the right", h.may)
	h.apply(gateway(true, adapters.Resources{}))
	h.poke()
	h.wait("it is said", func() bool { return strings.Contains(h.log.String(), "may listen on ports below 1024") })
	if n := h.did("reload " + unitName("gw-public")); n != 1 {
		t.Errorf("it was replaced %d times: %q", n, h.Done())
	}
	if h.did("stop "+unitName("gw-public"))+h.did("reload "+unitName("host")) > 0 {
		t.Errorf("a proxy was disturbed: %q", h.Done())
	}
	h.apply(gateway(false, adapters.Resources{}))
	h.wait("the drop-in has gone, with its folder", func() bool {
		_, err := os.Stat(filepath.Join(h.Folder, "system", unitName("gw-public")+".d"))
		return errors.Is(err, fs.ErrNotExist)
	})
	h.apply()
	h.wait("it has ended", h.is("gw-public", "inactive"))
	h.apply(gateway(false, adapters.Resources{}))
	h.wait("it runs again", h.is("gw-public", "active"))
	if h.may() {
		t.Error("it has a right that it does not need")
	}
}

func TestTheKernelSaysWhatAProcessMay(t *testing.T) {
	got, err := effective(uint32(os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := effective(1 << 30); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	var header unix.CapUserHeader
	header.Version = unix.LINUX_CAPABILITY_VERSION_3
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil || got != uint64(data[1].Effective)<<32|uint64(data[0].Effective) {
		t.Errorf("%x, but the kernel says %x, %v", got, data, err)
	}
}

func TestResourcesAreSetAtOnceAndGivenBack(t *testing.T) {
	h := newHost(t)
	unit := unitName("gw-public")
	h.apply(gateway(false, adapters.Resources{MemoryHigh: 512 << 20, TasksMax: 100}))
	h.wait("it runs", h.is("gw-public", "active"))
	has := func(name string, value uint64) func() bool {
		return func() bool { return h.Property(unit, name) == value }
	}
	h.wait("its memory is bounded", has("MemoryHigh", 512<<20))
	h.wait("its threads, too", has("TasksMax", 100))
	if h.did("daemon-reload") > 0 || h.did("reload "+unit) > 0 {
		t.Errorf("%q: nothing is to be loaded again", h.Done())
	}
	h.apply(gateway(false, adapters.Resources{MemoryHigh: 256 << 20, CPUWeight: 50}))
	h.wait("its memory is bounded anew", has("MemoryHigh", 256<<20))
	h.wait("it has its share", has("CPUWeight", 50))
	h.wait("its threads are its unit's", has("TasksMax", 4096))

	file := filepath.Join(h.Folder, "system.control", unit+".d", "50-CPUWeight.conf")
	if err := os.WriteFile(file, []byte("[Service]\nCPUWeight=7\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	h.ByHand(unit)
	h.wait("what another hand changed is set again", has("CPUWeight", 50))
	h.wait("that is said", func() bool { return strings.Contains(h.log.String(), "changed by another hand") })

	h.apply(gateway(false, adapters.Resources{}))
	h.wait("all is its unit's", func() bool { return has("MemoryHigh", 1<<64-1)() && has("CPUWeight", 1<<64-1)() })
	if h.did("stop "+unit)+h.did("reload "+unit) > 0 {
		t.Errorf("%q: the proxy was disturbed", h.Done())
	}
}

func TestNewerSettingsArePlacedWithTheUnit(t *testing.T) {
	dir := t.TempDir()
	for version, want := range map[int]bool{249: false, 252: true} {
		if err := placeNewer(dir, needed, version); err != nil {
			t.Fatal(err)
		}
		_, err := os.Stat(filepath.Join(dir, needed[0]+".d", "50-systemd-250.conf"))
		if (err == nil) != want {
			t.Errorf("systemd %d: %v", version, err)
		}
		if err := os.RemoveAll(filepath.Join(dir, needed[0]+".d")); err != nil {
			t.Fatal(err)
		}
	}
	if err := placeNewer(dir, nil, 999); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("%v, %v: units of a package have a package's drop-ins", entries, err)
	}
}
