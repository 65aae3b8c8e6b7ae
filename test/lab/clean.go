package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// close ends all hosts and removes everything.
func (l *lab) close() error {
	var errs []error
	for _, h := range l.hosts {
		h.off()
		errs = append(errs, until(context.Background(), bootLimit, "processes of "+h.name+" end", h.release))
	}
	for _, h := range slices.Backward(l.hosts) {
		errs = append(errs, ignore(exec.Command("ip", "netns", "del", h.netns()).Run()))
	}
	errs = append(errs, ignore(exec.Command("ip", "netns", "del", l.id).Run()), unmount(l.dir), os.RemoveAll(l.dir), l.left())
	return errors.Join(errs...)
}

// left says what there is yet of the lab on this machine.
func (l *lab) left() error {
	var all []string
	for _, pattern := range []string{l.dir, "/run/netns/" + l.id + "*", "/sys/fs/cgroup/" + l.id + "*", "/sys/fs/cgroup/*/" + l.id + "*"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		all = append(all, found...)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, l.dir+"/") || strings.Contains(line, l.dir+" ") {
			all = append(all, strings.TrimSpace(line))
		}
	}
	if len(all) > 0 {
		return fmt.Errorf("left on this machine: %s", strings.Join(all, "; "))
	}
	return nil
}

// ignore drops the error of a command that had nothing to do.
func ignore(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil
	}
	return err
}

// release unmounts the host's file system and removes its control groups.
func (h *host) release() error {
	if err := h.unplug(); err != nil {
		return err
	}
	for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} { // the second: version 1
		groups, err := filepath.Glob(pattern + h.netns())
		if err != nil {
			return err
		}
		for _, g := range groups {
			if err := removeGroup(g); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeGroup removes a control group with those below it, and whatever runs there.
func removeGroup(dir string) error {
	var all []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			all = append(all, path)
			text, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
			for _, pid := range strings.Fields(string(text)) {
				if n, err := strconv.Atoi(pid); err == nil && n > 1 {
					_ = syscall.Kill(n, syscall.SIGKILL)
				}
			}
		}
		return nil // one that has gone by itself
	})
	for _, path := range slices.Backward(all) {
		if e := syscall.Rmdir(path); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, fmt.Errorf("%s: %w", path, e))
		}
	}
	return err
}
