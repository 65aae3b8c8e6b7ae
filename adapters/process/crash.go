package process

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/wattle-mesh/wattle/adapters"
)

// What is told of an Envoy's log when it has crashed.
const (
	lastBytes = 8 << 10
	lastLines = 20
)

// crashed tells of an Envoy that has ended by itself.
func (k *keeper) crashed(why error) {
	if k.a.o.Crashed == nil {
		return
	}
	k.a.o.Crashed(adapters.Crash{Name: k.name, Last: func(context.Context) []string {
		return append(tail(filepath.Join(k.a.folder(k.name), LogFile)), "ended: "+why.Error())
	}})
}

// tail returns the last lines of a file, none if it cannot be read.
func tail(path string) []string {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	if end, err := f.Seek(0, io.SeekEnd); err != nil || end > lastBytes {
		if _, err := f.Seek(-lastBytes, io.SeekEnd); err != nil {
			return nil
		}
	} else if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil
	}
	text, err := io.ReadAll(f)
	if err != nil || len(text) == 0 {
		return nil
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return lines[max(0, len(lines)-lastLines):]
}

// Kill implements adapters.Killer.
func (a *Adapter) Kill(_ context.Context, name string) error {
	all, err := a.running()
	for _, p := range all[name] {
		if killed := unix.Kill(p.pid, unix.SIGKILL); !errors.Is(killed, unix.ESRCH) {
			err = errors.Join(err, killed)
		}
	}
	return err
}
