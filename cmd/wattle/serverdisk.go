package main

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/registry"
)

// littleRoom is how much must be free where the server keeps its state, in bytes.
const littleRoom = 16 << 20

// diagnostics returns what is wrong with the server itself: with its file as it is now, and with its disk.
func (s *server) diagnostics() configs.Diagnostics {
	ds := slices.Clone(s.file.diagnostics())
	var disk unix.Statfs_t
	if err := unix.Statfs(s.cfg.StateDir, &disk); err != nil {
		return append(ds, diskFull(s.cfg.StateDir, err.Error()))
	}
	if free := disk.Bavail * uint64(disk.Bsize); free < littleRoom {
		ds = append(ds, diskFull(s.cfg.StateDir, fmt.Sprintf("%d KiB are free", free>>10)))
	}
	return ds
}

func diskFull(dir, why string) configs.Diagnostic {
	return configs.Diagnostic{Severity: configs.Error, Code: registry.DiskFull, File: dir, Summary: "the server's disk is full: " + why,
		Detail: "Make room: what is in force stays, but nothing new can be kept."}
}
