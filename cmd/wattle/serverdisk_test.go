package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/registry"
)

func TestADiskWithoutRoomIsADiagnostic(t *testing.T) {
	s := &server{cfg: &configs.Server{StateDir: t.TempDir()}, file: &serverFile{}}
	if ds := s.diagnostics(); len(ds) != 0 {
		t.Errorf("of a disk with room: %v", ds)
	}
	s.cfg.StateDir = filepath.Join(s.cfg.StateDir, "gone")
	if ds := s.diagnostics(); len(ds) != 1 || ds[0].Code != registry.DiskFull || !strings.Contains(ds[0].Summary, "no such file") {
		t.Errorf("of a folder that is gone: %v", ds)
	}
}
