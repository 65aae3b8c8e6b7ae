package main

import (
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// giveBack gives the memory back that only the start needed: garbage, and the pages of this program that are mapped. The
// most of those are what dozens of libraries do once when a process begins, and what lies beside it, since the kernel maps
// 16 pages for one; they come back from its cache as they are needed.
func giveBack(log *slog.Logger) {
	debug.FreeOSMemory()
	if err := unmap(); err != nil {
		log.Warn("pages of the program stay mapped, which does no harm", "error", err)
	}
}

func unmap() error {
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	p, err := procfs.Self()
	if err != nil {
		return err
	}
	maps, err := p.ProcMaps()
	if err != nil {
		return err
	}
	for _, m := range maps {
		if m.Perms.Write || strings.TrimSuffix(m.Pathname, " (deleted)") != strings.TrimSuffix(self, " (deleted)") {
			continue // what was written would be lost
		}
		if _, _, no := unix.Syscall(unix.SYS_MADVISE, m.StartAddr, m.EndAddr-m.StartAddr, unix.MADV_DONTNEED); no != 0 {
			return fmt.Errorf("madvise: %w", no)
		}
	}
	return nil
}
