package capture

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNoCgroups says that this host has no control groups of version 2: connections cannot be told apart by unit.
var ErrNoCgroups = errors.New("this host has no control groups of version 2")

// Hierarchy is where control groups of version 2 are.
type Hierarchy struct {
	Mount string // folder
}

// Groups finds the hierarchy: alone at /sys/fs/cgroup, or beside version 1. It fails with ErrNoCgroups.
func Groups() (Hierarchy, error) {
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var fs unix.Statfs_t
		if err := unix.Statfs(dir, &fs); err == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
			return Hierarchy{dir}, nil
		}
	}
	return Hierarchy{}, ErrNoCgroups
}

// Find returns the control group of a path as systemd says it: "/system.slice/web.service". It is another one each time
// that the unit starts.
func (h Hierarchy) Find(path string) (Cgroup, error) {
	path = filepath.Clean("/" + path)
	if path == "/" {
		return Cgroup{}, errors.New("the root of all control groups is no unit's")
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(h.Mount, path), &st); err != nil {
		return Cgroup{}, fmt.Errorf("control group %s: %w", path, os.NewSyscallError("stat", err))
	}
	return Cgroup{Level: uint32(strings.Count(path, "/")), ID: st.Ino}, nil
}
