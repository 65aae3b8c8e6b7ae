package launch

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestASpecComesBackAsItWasWritten(t *testing.T) {
	dir := t.TempDir()
	if err := Folder(dir, os.Getgid()); err != nil {
		t.Fatal(err)
	}
	want := Spec{Name: "gw-public", Envoy: "/usr/bin/envoy", Concurrency: 2, LogLevel: "warning", Drain: 20 * time.Second, Shutdown: 30 * time.Second}
	for i, fresh := range []bool{true, false} {
		if changed, err := want.Write(dir); err != nil || changed != fresh {
			t.Errorf("write %d: changed %v, %v", i, changed, err)
		}
	}
	got, err := Read(dir)
	if err != nil || !cmp.Equal(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	args := want.Args("/run/wattle/gw-public/envoy.json")
	if args[0] != ConfigFlag || args[1] != "/run/wattle/gw-public/envoy.json" {
		t.Errorf("%q: an Envoy is known by its first arguments", args)
	}
	if i := slices.Index(args, "--drain-time-s"); i < 0 || args[i+1] != "20" {
		t.Errorf("%q: no drain of 20 s", args)
	}
}

func TestWhatAnotherHandChangedIsPlacedAgain(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, BootstrapFile)
	place := func() bool {
		changed, err := Place(path, []byte("{}"))
		if err != nil {
			t.Fatal(err)
		}
		return changed
	}
	if !place() || place() {
		t.Fatal("it is placed once")
	}
	for what, harm := range map[string]func() error{
		"content": func() error { return os.WriteFile(path, []byte("{ }"), 0o640) },
		"mode":    func() error { return os.Chmod(path, 0o666) },
		"removal": func() error { return os.Remove(path) },
		"a link":  func() error { return replaceByLink(path) },
	} {
		if err := harm(); err != nil {
			t.Fatal(err)
		}
		if !place() || place() {
			t.Errorf("%s: it is placed again, once", what)
		}
	}
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != 0o640 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func replaceByLink(path string) error {
	if err := os.Rename(path, path+".real"); err != nil {
		return err
	}
	return os.Symlink(path+".real", path)
}

func TestAProxyThatTheAgentDoesNotRunIsSaid(t *testing.T) {
	_, err := Read(filepath.Join(t.TempDir(), "gw-old"))
	if err == nil || !strings.Contains(err.Error(), "this host's agent runs no proxy gw-old") {
		t.Error(err)
	}
}
