package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// diskSize is that of a host's disk, in bytes. The file behind it is as large as what was written.
const diskSize = 3 << 29

// shutDown is EXT4_IOC_SHUTDOWN, and noFlush its way of a power cut: what was not synced is lost, the journal too
// (linux/fs/ext4/ext4.h).
const (
	shutDown = 0x8004587d
	noFlush  = 2
)

// makeDisk makes the host's disk: a file system of its own, so that a power cut loses what was not synced, and a full disk
// is full for one host only.
func (h *host) makeDisk(ctx context.Context) error {
	err := errors.Join(os.MkdirAll(h.path("disk"), 0o755), os.MkdirAll(h.path("root"), 0o755))
	if err != nil {
		return err
	}
	if err := os.WriteFile(h.path("image"), nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(h.path("image"), diskSize); err != nil {
		return err
	}
	if err := steps(ctx, []string{"mkfs.ext4", "-q", "-F", h.path("image")}); err != nil {
		return err
	}
	return h.plug(ctx)
}

// plug mounts the disk, and the host's root over it and the common one.
func (h *host) plug(ctx context.Context) error {
	if err := steps(ctx, []string{"mount", "-o", "loop", h.path("image"), h.path("disk")}); err != nil {
		return err
	}
	upper, work := h.path("disk/upper"), h.path("disk/work")
	if err := errors.Join(os.MkdirAll(upper, 0o755), os.MkdirAll(work, 0o755)); err != nil {
		return err
	}
	return steps(ctx, []string{"mount", "-t", "overlay", "overlay", "-o", "lowerdir=" + h.lab.root + ",upperdir=" + upper + ",workdir=" + work, h.path("root")})
}

// unplug unmounts root and disk once nobody uses them any more.
func (h *host) unplug() error {
	for _, dir := range []string{h.path("root"), h.path("disk")} {
		if err := unmount(dir); err != nil {
			return err
		}
	}
	out, err := exec.Command("losetup", "-j", h.path("image")).Output()
	if err == nil && len(out) > 0 {
		err = fmt.Errorf("somebody has it open yet: %s", out)
	}
	return err
}

// unmount unmounts what is mounted at a folder, if anything is.
func unmount(dir string) error {
	if err := syscall.Unmount(dir, 0); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}

// sync has everything on the disk that was written so far.
func (h *host) sync() error {
	f, err := os.Open(h.path("disk"))
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(f.Fd())), f.Close())
}

// lose drops at once what the disk was told and not asked to sync. From then on it takes nothing.
func (h *host) lose() error {
	f, err := os.Open(h.path("disk"))
	if err != nil {
		return err
	}
	defer f.Close()
	how := uint32(noFlush)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), shutDown, uintptr(unsafe.Pointer(&how))); e != 0 {
		return fmt.Errorf("shut the disk of %s down: %w", h.name, e)
	}
	return nil
}

// fill takes all room on the host's disk, and returns what makes room again.
func (h *host) fill() (free func() error, err error) {
	path := h.path("disk/ballast")
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	free = func() error { return os.Remove(path) }
	size := int64(0)
	for block := int64(diskSize); block > 0; {
		switch err := syscall.Fallocate(int(f.Fd()), 0, size, block); {
		case err == nil:
			size += block
		case errors.Is(err, syscall.ENOSPC):
			block /= 2 // the last bytes, too
		default:
			return nil, errors.Join(err, f.Close(), free())
		}
	}
	return free, errors.Join(f.Sync(), f.Close())
}
