// Package smalldisk gives tests a disk that can be full: a tmpfs of a few megabytes in a mount namespace of the test's own,
// of which nothing is left when the test ends, however it ends.
package smalldisk

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// inside is set for the process that has the disk, to the folder where it is to be.
const inside = "WATTLE_TEST_SMALL_DISK"

// Disk is an empty file system.
type Disk struct {
	Dir string
	t   *testing.T
}

// Run calls f in a process of its own that has a disk of so many bytes.
func Run(t *testing.T, bytes int, f func(*testing.T, Disk)) {
	t.Helper()
	if dir := os.Getenv(inside); dir != "" {
		f(t, mount(t, dir, bytes))
		return
	}
	dir, err := os.MkdirTemp("", "wattle-") // t.TempDir is too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), inside+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		one := func(id int) []syscall.SysProcIDMap { return []syscall.SysProcIDMap{{HostID: id, Size: 1}} }
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWUSER, UidMappings: one(os.Getuid()), GidMappings: one(os.Getgid())}
	}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("%v\n%s", err, out)
	}
}

func mount(t *testing.T, dir string, bytes int) Disk {
	t.Helper()
	err := errors.Join(syscall.Mount("", "/", "", syscall.MS_PRIVATE|syscall.MS_REC, ""),
		syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=0700,size="+strconv.Itoa(bytes)))
	if err != nil {
		t.Fatal(err)
	}
	return Disk{dir, t}
}

func (d Disk) filler() string { return filepath.Join(d.Dir, "filler") }

// Fill leaves not a byte free.
func (d Disk) Fill() {
	d.t.Helper()
	f, err := os.OpenFile(d.filler(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil && !errors.Is(err, syscall.ENOSPC) {
		d.t.Fatal(err)
	}
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	_ = f.Close()
	if !errors.Is(err, syscall.ENOSPC) {
		d.t.Fatal(err)
	}
}

// Free gives back what Fill took.
func (d Disk) Free() {
	d.t.Helper()
	if err := os.Remove(d.filler()); err != nil {
		d.t.Fatal(err)
	}
}
